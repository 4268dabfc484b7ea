function capture_original(config, out_folder, further_inputs)
%CAPTURE_ORIGINAL  Run your copy of the original release on the stored inputs and keep what it gives.
%
%   CAPTURE_ORIGINAL() calls it as capture_config.m says and writes fixtures/original/*.mat.
%   CAPTURE_ORIGINAL(config, out_folder) takes another function than @capture_config, and another
%   folder.  CAPTURE_ORIGINAL(config, out_folder, file) also runs the inputs that
%   `python -m matlab_parity.compare --infer ... --probes file` wrote, which tell more.
%
%   A case on which your copy stops with an error is left out, and named.

  here = fileparts(mfilename('fullpath'));
  root = fileparts(here);
  in_folder = fullfile(root, 'fixtures', 'inputs');
  if nargin < 1 || isempty(config)
    config = @capture_config;
  end
  if nargin < 2 || isempty(out_folder)
    out_folder = fullfile(root, 'fixtures', 'original');
  end
  if nargin < 3
    further_inputs = '';
  end
  addpath(fullfile(root, 'collectors'));
  cfg = config();
  if ~isempty(cfg.folder)
    addpath(genpath(cfg.folder));
  end

  if ~isempty(cfg.layer)
    capture_layer(cfg, in_folder, out_folder, further_inputs);
  end
  if ~isempty(cfg.encode)
    capture_encoder(cfg, in_folder, out_folder);
  end
  if ~isempty(cfg.decode)
    capture_decoder(cfg, in_folder, out_folder);
  end
end

function capture_layer(cfg, in_folder, out_folder, further_inputs)
  files = {fullfile(in_folder, 'ws_learn_one_layer_conventions.mat'), ...
           fullfile(in_folder, 'ws_learn_one_layer.mat')};
  if ~isempty(further_inputs)
    files{end + 1} = further_inputs;
  end
  outputs = {'quantized', 'codes', 'levels', 'c_neg', 'c_pos'};
  cases = no_cases([{'name', 'W', 'shape', 'p', 'b'}, outputs]);
  for i = 1:numel(files)
    stored = load(files{i});
    for j = 1:numel(stored.cases)
      input = stored.cases(j);
      if ~is_new(cases, input)
        continue
      end
      try
        output = cfg.layer(input.W, input.p, input.b);
      catch problem
        fprintf('left out: %s: %s\n', input.name, problem.message);
        continue
      end
      cases(end + 1) = joined(cases, input, output, outputs); %#ok<AGROW>
    end
  end
  finish(cases, fullfile(out_folder, 'ws_learn_one_layer.mat'), ...
         {'fixtures/inputs/ws_learn_one_layer_conventions.mat', 'fixtures/inputs/ws_learn_one_layer.mat'});
end

function capture_encoder(cfg, in_folder, out_folder)
  outputs = {'index_bits', 'gaps', 'entry_codes', 'bits'};
  cases = no_cases([{'name', 'shape', 'dtype', 'b', 'codes', 'levels'}, outputs]);
  inputs = codec_inputs(in_folder);
  for i = 1:numel(inputs)
    try
      output = cfg.encode(inputs(i));
    catch problem
      fprintf('left out: %s: %s\n', inputs(i).name, problem.message);
      continue
    end
    cases(end + 1) = joined(cases, inputs(i), output, outputs); %#ok<AGROW>
  end
  finish(cases, fullfile(out_folder, 'encode_sparse_quantized_net_v2.mat'), ...
         {'fixtures/inputs/encode_sparse_quantized_net_v2.mat'});
end

function capture_decoder(cfg, in_folder, out_folder)
  cases = no_cases({'name', 'shape', 'dtype', 'b', 'codes', 'levels', 'W'});
  inputs = codec_inputs(in_folder);
  for i = 1:numel(inputs)
    try
      inputs(i).W = cfg.decode(cfg.encode_for_decode(inputs(i)));
    catch problem
      fprintf('left out: %s: %s\n', inputs(i).name, problem.message);
      continue
    end
    cases(end + 1) = joined(cases, inputs(i), struct(), {}); %#ok<AGROW>
  end
  finish(cases, fullfile(out_folder, 'decode_sparse_quantized_net_v2.mat'), ...
         {'fixtures/inputs/encode_sparse_quantized_net_v2.mat'});
end

function inputs = codec_inputs(in_folder)
% Every layer once, with its quantized blob.
  stored = load(fullfile(in_folder, 'encode_sparse_quantized_net_v2.mat'));
  [~, first] = unique({stored.cases.name}, 'first');
  inputs = stored.cases(sort(first));
  for i = 1:numel(inputs)
    table = [0; double(inputs(i).levels(:))];
    inputs(i).W = single(reshape(table(double(inputs(i).codes) + 1), size(inputs(i).codes)));
  end
end

function found = is_new(cases, input)
  found = true;
  for i = 1:numel(cases)
    if isequal(cases(i).p, input.p) && isequal(cases(i).b, input.b) && isequal(class(cases(i).W), class(input.W)) ...
        && isequal(cases(i).W, input.W)
      found = false;
      return
    end
  end
end

function cases = no_cases(names)
% A struct array of no elements with these fields.
  cases = cell2struct(cell(numel(names), 0), names, 1);
end

function element = joined(cases, input, output, outputs)
% An element with the fields of cases: those named in outputs from output, all others from input; empty where missing.
  names = fieldnames(cases);
  for i = 1:numel(names)
    source = input;
    if any(strcmp(names{i}, outputs))
      source = output;
    end
    element.(names{i}) = [];
    if isfield(source, names{i})
      element.(names{i}) = source.(names{i});
    end
  end
end

function finish(cases, file, inputs)
  provenance = ws_provenance([{'capture/capture_original.m'}, inputs]);
  save(file, 'cases', 'provenance', '-v7');
  fprintf('%d cases: %s\n', numel(cases), file);
end
