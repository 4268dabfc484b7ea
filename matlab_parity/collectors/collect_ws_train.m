function collect_ws_train(in_folder, out_folder)
%COLLECT_WS_TRAIN  Train the stored networks on the stored data; write inputs and traces together.

  stored = load(fullfile(in_folder, 'ws_train.mat'));
  cases = stored.cases;
  for i = 1:numel(cases)
    [net, trace] = ws_train(cases(i).net, cases(i).X, cases(i).labels, cases(i).opt);
    cases(i).trained = net;
    cases(i).trace = trace;
  end
  provenance = ws_provenance({'collectors/collect_ws_train.m', 'reference/ws_train.m', ...
                              'reference/ws_learn_one_layer.m', 'reference/ws_conventions.m', ...
                              'fixtures/inputs/ws_train.mat'});
  save(fullfile(out_folder, 'ws_train.mat'), 'cases', 'provenance', '-v7');
end
