function [net, info] = encode_sparse_quantized_net_v2(layers, conv)
%ENCODE_SPARSE_QUANTIZED_NET_V2  Codes and codebooks to the streams of the sparse encoding.
%
%   net = ENCODE_SPARSE_QUANTIZED_NET_V2(layers) takes a struct array with the fields
%     name    the layer
%     shape   1 x rank, its size as Caffe counts it: num x channels x height x width
%     dtype   'float32' or 'float64'
%     b       bits of a code, 2 to 8
%     codes   uint8, one for each weight in the order of matcaffe's blob; 0 is a pruned weight
%     levels  single, 2^b - 1 quantization levels
%   and gives the struct that Python's clipq.matlab_net writes and reads (save it with -v7).
%
%   net = ENCODE_SPARSE_QUANTIZED_NET_V2(layers, conv) follows conv.index_bits and
%   conv.count_codebook: see WS_CONVENTIONS.
%
%   [net, info] = ... also gives for every layer n_fillers; packed_gaps and packed_codes, the streams
%   as bytes; section, all bytes of the layer as docs/format.md defines them (coder fixed); and
%   bits, what the layer costs by the count of conv.count_codebook.
%
%   RECONSTRUCTED from F. Tung and G. Mori, "CLIP-Q", CVPR 2018 ("standard sparse encoding scheme"),
%   and S. Han et al., "Deep Compression", ICLR 2016.  It is not the authors' code, which was not at
%   hand.

  if nargin < 2
    conv = ws_conventions();
  end
  net = struct('format', 'clipq', 'version', 1);
  net.layers = struct('name', {}, 'shape', {}, 'dtype', {}, 'b', {}, 'index_bits', {}, ...
                      'n_weights', {}, 'gaps', {}, 'codes', {}, 'levels', {});
  info = struct('n_fillers', {}, 'packed_gaps', {}, 'packed_codes', {}, 'section', {}, 'bits', {});
  for i = 1:numel(layers)
    layer = layers(i);
    check_layer(layer);
    code = double(layer.codes(:));
    position = find(code > 0);
    runs = diff([0; position(:)]) - 1;                  % zeros before each kept weight
    w = index_width(runs, numel(code), layer, conv);
    [gaps, entries] = entries_of(runs, code(position), w);

    out.name = layer.name;
    out.shape = layer.shape;
    out.dtype = layer.dtype;
    out.b = layer.b;
    out.index_bits = w;
    out.n_weights = numel(code);
    out.gaps = uint32(gaps);
    out.codes = uint8(entries);
    out.levels = single(layer.levels(:));
    net.layers(1, i) = out;
    info(1, i) = section_of(out, conv);
  end
  net.tensors = struct('name', {}, 'shape', {}, 'dtype', {}, 'value', {});
  net.aliases = struct('name', {}, 'target', {});
end

function check_layer(layer)
  if numel(layer.levels) ~= 2^layer.b - 1
    error('clipq:levels', 'encode: layer %s: expected %d levels, got %d', ...
          layer.name, 2^layer.b - 1, numel(layer.levels));
  end
  if any(double(layer.codes(:)) >= 2^layer.b)
    error('clipq:codes', 'encode: layer %s: a code does not fit in %d bits', layer.name, layer.b);
  end
  if prod(layer.shape) ~= numel(layer.codes)
    error('clipq:shape', 'encode: layer %s: shape and number of codes differ', layer.name);
  end
end

function w = index_width(runs, n, layer, conv)
% Bits of a relative index.
  switch conv.index_bits
    case 'best'
      widths = 0:24;
      sizes = zeros(size(widths));
      for i = 1:numel(widths)
        n_entries = numel(runs) + sum(floor(runs / 2^widths(i)));
        sizes(i) = section_size(n, layer.b, n_entries, widths(i));
      end
      [~, first] = min(sizes);                          % the narrowest of equals
      w = widths(first);
    case 'deep_compression'
      if numel(layer.shape) > 2
        w = 8;
      else
        w = 5;
      end
    otherwise
      error('clipq:setting', 'encode: convention index_bits has no option %s', conv.index_bits);
  end
end

function [gaps, entries] = entries_of(runs, code, w)
% A run of r zeros takes floor(r / 2^w) fillers, each of gap 2^w - 1 and code 0.
  fillers = floor(runs / 2^w);
  place = cumsum(fillers + 1);
  n_entries = sum(fillers + 1);
  gaps = (2^w - 1) * ones(n_entries, 1);
  entries = zeros(n_entries, 1);
  gaps(place) = mod(runs, 2^w);
  entries(place) = code;
end

function info = section_of(layer, conv)
  info.n_fillers = sum(layer.codes == 0);
  info.packed_gaps = pack_bits(layer.gaps, layer.index_bits);
  info.packed_codes = pack_bits(layer.codes, layer.b);
  header = [uint8(layer.index_bits), varint(numel(layer.codes))];
  levels = typecast(layer.levels(:)', 'uint8');         % little endian on all machines that MATLAB runs on
  section = [header, levels(:)', info.packed_gaps, info.packed_codes];
  total = section_size(layer.n_weights, layer.b, numel(layer.codes), layer.index_bits);
  info.section = [section, zeros(1, total - numel(section), 'uint8')];
  switch conv.count_codebook
    case 'yes'
      counted = total + 4;                              % and the checksum
    case 'no'
      counted = total + 4 - numel(levels);
    otherwise
      error('clipq:setting', 'encode: convention count_codebook has no option %s', conv.count_codebook);
  end
  info.bits = 8 * counted;
end

function bytes = section_size(n, b, n_entries, w)
% Bytes of the section without its checksum; at least one for 4096 weights.
  bytes = 1 + numel(varint(n_entries)) + 4 * (2^b - 1) + ceil(n_entries * w / 8) + ceil(n_entries * b / 8);
  bytes = max(bytes, ceil(n / 4096));
end

function bytes = varint(value)
% Unsigned LEB128: seven bits a byte, low ones first.
  bytes = mod(value, 128);
  value = floor(value / 128);
  while value > 0
    bytes(end) = bytes(end) + 128;
    bytes(end + 1) = mod(value, 128); %#ok<AGROW>
    value = floor(value / 128);
  end
  bytes = uint8(bytes);
end

function bytes = pack_bits(values, width)
% Integers of some bits, the first in the lowest bits of the first byte; a row.
  n = numel(values);
  n_bytes = ceil(n * width / 8);
  stream = zeros(8, n_bytes);
  place = (1:n * width)';
  if ~isempty(place)
    value = double(values(:));
    bit = mod(place - 1, width);
    stream(place) = mod(floor(value(floor((place - 1) / width) + 1) ./ 2.^bit), 2);
  end
  bytes = uint8((2.^(0:7)) * stream);
end
