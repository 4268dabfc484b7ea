function collect_ws_search(in_folder, out_folder)
%COLLECT_WS_SEARCH  Search (p, b) of the stored networks; write inputs, choices and evaluations together.

  stored = load(fullfile(in_folder, 'ws_search.mat'));
  cases = stored.cases;
  for i = 1:numel(cases)
    [theta, trace] = ws_search(cases(i).net, cases(i).X, cases(i).labels, cases(i).opt);
    cases(i).theta = theta;
    cases(i).trace = trace;
  end
  provenance = ws_provenance({'collectors/collect_ws_search.m', 'reference/ws_search.m', ...
                              'reference/ws_learn_one_layer.m', 'reference/ws_conventions.m', ...
                              'reference/encode_sparse_quantized_net_v2.m', 'fixtures/inputs/ws_search.mat'});
  save(fullfile(out_folder, 'ws_search.mat'), 'cases', 'provenance', '-v7');
end
