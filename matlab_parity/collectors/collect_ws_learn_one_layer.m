function collect_ws_learn_one_layer(in_folder, out_folder)
%COLLECT_WS_LEARN_ONE_LAYER  Run the reference on every stored input; write inputs and outputs together.
%
%   The second fixture runs all settings of the conventions on a few small inputs: column i of its
%   outputs is for conventions(i).

  code = {'collectors/collect_ws_learn_one_layer.m', 'reference/ws_learn_one_layer.m', ...
          'reference/ws_conventions.m'};
  stored = load(fullfile(in_folder, 'ws_learn_one_layer.mat'));
  cases = stored.cases;
  for i = 1:numel(cases)
    [Wq, info] = ws_learn_one_layer(cases(i).W, cases(i).p, cases(i).b, cases(i).conv);
    cases(i).quantized = Wq;
    names = fieldnames(info);
    for j = 1:numel(names)
      cases(i).(names{j}) = info.(names{j});
    end
  end
  provenance = ws_provenance([code, {'fixtures/inputs/ws_learn_one_layer.mat'}]);
  save(fullfile(out_folder, 'ws_learn_one_layer.mat'), 'cases', 'provenance', '-v7');

  stored = load(fullfile(in_folder, 'ws_learn_one_layer_conventions.mat'));
  cases = stored.cases;
  conventions = stored.conventions;
  n = numel(conventions);
  for i = 1:numel(cases)
    n_levels = 2^cases(i).b - 1;
    cases(i).codes = zeros(numel(cases(i).W), n, 'uint8');
    cases(i).quantized = zeros(numel(cases(i).W), n);
    cases(i).levels = zeros(n_levels, n, 'single');
    cases(i).c_neg = zeros(1, n);
    cases(i).c_pos = zeros(1, n);
    for j = 1:n
      [Wq, info] = ws_learn_one_layer(cases(i).W, cases(i).p, cases(i).b, conventions(j));
      cases(i).codes(:, j) = info.codes(:);
      cases(i).quantized(:, j) = Wq(:);
      cases(i).levels(:, j) = info.levels(:);
      cases(i).c_neg(j) = info.c_neg;
      cases(i).c_pos(j) = info.c_pos;
    end
  end
  provenance = ws_provenance([code, {'fixtures/inputs/ws_learn_one_layer_conventions.mat'}]);
  save(fullfile(out_folder, 'ws_learn_one_layer_conventions.mat'), ...
       'cases', 'conventions', 'provenance', '-v7');
end
