function layers = decode_sparse_quantized_net_v2(net)
%DECODE_SPARSE_QUANTIZED_NET_V2  The streams of the sparse encoding back to codes and weights.
%
%   layers = DECODE_SPARSE_QUANTIZED_NET_V2(net) takes the struct that ENCODE_SPARSE_QUANTIZED_NET_V2
%   or Python's clipq.matlab_net made.  A layer whose streams are only there as bytes (the field
%   section, docs/format.md, coder fixed) is read from those.
%
%   layers is a struct array: name, shape, b, and as matcaffe's blob (width x height x channels x num)
%   codes (uint8) and W (single, or double where dtype is 'float64').
%
%   RECONSTRUCTED from F. Tung and G. Mori, "CLIP-Q", CVPR 2018, and S. Han et al., "Deep
%   Compression", ICLR 2016.  It is not the authors' code, which was not at hand.

  layers = struct('name', {}, 'shape', {}, 'b', {}, 'codes', {}, 'W', {});
  for i = 1:numel(net.layers)
    coded = net.layers(i);
    if isfield(coded, 'section')
      coded = read_section(coded);
    end
    code = zeros(coded.n_weights, 1);
    position = cumsum(double(coded.gaps(:)) + 1);
    if ~isempty(position) && position(end) > coded.n_weights
      error('clipq:streams', 'decode: layer %s: an entry lies beyond its %d weights', coded.name, coded.n_weights);
    end
    code(position) = double(coded.codes(:));            % fillers put zeros where zeros are
    table = [0; double(coded.levels(:))];
    W = table(code + 1);
    if ~strcmp(coded.dtype, 'float64')
      W = single(W);
    end
    layers(1, i).name = coded.name;
    layers(1, i).shape = coded.shape;
    layers(1, i).b = coded.b;
    layers(1, i).codes = blob(uint8(code), coded.shape);
    layers(1, i).W = blob(W, coded.shape);
  end
end

function W = blob(w, shape)
% Caffe's size backwards; MATLAB wants two dimensions at least.
  W = reshape(w, [fliplr(double(shape(:)')), ones(1, 2 - numel(shape))]);
end

function layer = read_section(layer)
  bytes = double(layer.section(:));
  layer.index_bits = bytes(1);
  at = 2;
  n_entries = 0;
  scale = 1;
  while bytes(at) >= 128
    n_entries = n_entries + scale * (bytes(at) - 128);
    scale = scale * 128;
    at = at + 1;
  end
  n_entries = n_entries + scale * bytes(at);
  at = at + 1;

  n_levels = 2^layer.b - 1;
  layer.levels = typecast(uint8(bytes(at:at + 4 * n_levels - 1))', 'single');
  at = at + 4 * n_levels;
  n_bytes = ceil(n_entries * layer.index_bits / 8);
  layer.gaps = unpack_bits(bytes(at:at + n_bytes - 1), layer.index_bits, n_entries);
  at = at + n_bytes;
  n_bytes = ceil(n_entries * layer.b / 8);
  layer.codes = unpack_bits(bytes(at:at + n_bytes - 1), layer.b, n_entries);
end

function values = unpack_bits(bytes, width, n)
  stream = mod(floor(bsxfun(@rdivide, bytes(:)', 2.^(0:7)')), 2);
  stream = reshape(stream(1:n * width), width, n);
  values = (2.^(0:width - 1) * stream)';
end
