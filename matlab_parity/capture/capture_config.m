function cfg = capture_config()
%CAPTURE_CONFIG  How to call your copy of the original release.  Edit this file, nothing else.
%
%   Then run, in matlab_parity/capture:   capture_original()
%   and, in the project's root folder:    python -m matlab_parity.compare --infer
%                                             matlab_parity/fixtures/original/ws_learn_one_layer.mat
%
%   The original's arguments are not known here, so each entry is a function of ours that calls
%   theirs.  Leave an entry [] to skip it.

  % The folder of your copy; it is put on the path with its subfolders.
  cfg.folder = '';

  % One layer.  W: double or single, as matcaffe gives a blob; p: pruning rate; b: bits.
  % The struct needs the field quantized, of the size of W.  Add what your copy also gives:
  %   codes   0 for a pruned weight, 1 .. 2^b - 1 for its interval, ascending by value
  %   levels  all 2^b - 1 quantization levels, ascending, those of empty intervals included (NaN: none)
  %   c_neg, c_pos   the clips, c_neg <= 0 <= c_pos
  cfg.layer = @(W, p, b) struct('quantized', ws_learn_one_layer(W, p, b));

  % The encoder.  layer: name, shape (num x channels x height x width), b, codes and levels as above,
  % W (the quantized blob).  The struct may have: index_bits; gaps (zeros before each entry);
  % entry_codes (of each entry, 0 for a filler); bits (what the layer costs, its codebook included or not,
  % and at most 95 bits of header).
  cfg.encode = [];

  % The decoder: what cfg.encode_for_decode makes of a layer -> the quantized blob.
  cfg.decode = [];
  cfg.encode_for_decode = [];
end
