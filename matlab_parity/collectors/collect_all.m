function collect_all(out_folder)
%COLLECT_ALL  Make all reconstructed fixtures again from the stored inputs.
%
%   COLLECT_ALL() writes to matlab_parity/fixtures/reconstructed; COLLECT_ALL(folder) to a folder of
%   yours.  Then `python -m matlab_parity.manifest` records the new checksums.

  here = fileparts(mfilename('fullpath'));
  root = fileparts(here);
  if nargin < 1
    out_folder = fullfile(root, 'fixtures', 'reconstructed');
  end
  in_folder = fullfile(root, 'fixtures', 'inputs');
  addpath(here, fullfile(root, 'reference'));
  collect_ws_learn_one_layer(in_folder, out_folder);
  collect_codec(in_folder, out_folder);
  collect_ws_train(in_folder, out_folder);
  collect_ws_search(in_folder, out_folder);
end
