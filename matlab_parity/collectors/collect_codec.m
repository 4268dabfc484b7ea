function collect_codec(in_folder, out_folder)
%COLLECT_CODEC  Encode the stored codes, decode what Python encoded; write inputs and outputs together.

  collector = 'collectors/collect_codec.m';
  encoder = {collector, 'reference/encode_sparse_quantized_net_v2.m', 'reference/ws_conventions.m', ...
             'fixtures/inputs/encode_sparse_quantized_net_v2.mat'};
  decoder = {collector, 'reference/decode_sparse_quantized_net_v2.m'};

  stored = load(fullfile(in_folder, 'encode_sparse_quantized_net_v2.mat'));
  cases = stored.cases;
  for i = 1:numel(cases)
    [net, info] = encode_sparse_quantized_net_v2(cases(i), cases(i).conv);
    cases(i).index_bits = net.layers.index_bits;
    cases(i).gaps = net.layers.gaps;
    cases(i).entry_codes = net.layers.codes;
    cases(i).codebook = net.layers.levels;
    names = fieldnames(info);
    for j = 1:numel(names)
      cases(i).(names{j}) = info.(names{j});
    end
  end
  provenance = ws_provenance(encoder);
  save(fullfile(out_folder, 'encode_sparse_quantized_net_v2.mat'), 'cases', 'provenance', '-v7');

  readings = {'best', 'deep_compression'};
  index_bits = arrayfun(@(c) c.conv.index_bits, stored.cases, 'UniformOutput', false);
  for i = 1:numel(readings)
    conv = ws_conventions('index_bits', readings{i});
    net = encode_sparse_quantized_net_v2(stored.cases(strcmp(index_bits, readings{i})), conv);
    provenance = ws_provenance(encoder);
    save(fullfile(out_folder, ['encoded_net_', readings{i}, '.mat']), 'net', 'provenance', '-v7');

    file = ['encoded_net_', readings{i}, '.mat'];
    python = load(fullfile(in_folder, file));
    cases = decode_sparse_quantized_net_v2(python.net);
    provenance = ws_provenance([decoder, {['fixtures/inputs/', file]}]);
    save(fullfile(out_folder, ['decoded_net_', readings{i}, '.mat']), 'cases', 'provenance', '-v7');
  end

  stored = load(fullfile(in_folder, 'encoded_sections.mat'));
  cases = decode_sparse_quantized_net_v2(struct('layers', stored.cases));
  provenance = ws_provenance([decoder, {'fixtures/inputs/encoded_sections.mat'}]);
  save(fullfile(out_folder, 'decoded_sections.mat'), 'cases', 'provenance', '-v7');
end
