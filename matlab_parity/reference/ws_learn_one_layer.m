function [Wq, info] = ws_learn_one_layer(W, p, b, conv)
%WS_LEARN_ONE_LAYER  Clip, partition and quantize the weights of one layer.
%
%   Wq = WS_LEARN_ONE_LAYER(W, p, b) prunes the fraction p of W and replaces the rest by one of
%   2^b - 1 quantization levels.  W is single or double, of any size, in the order in which matcaffe
%   gives a blob; p is in [0, 1]; b is 2 to 8.  Wq has the size and the class of W.
%
%   Wq = WS_LEARN_ONE_LAYER(W, p, b, conv) follows the reading conv of the paper: see
%   WS_CONVENTIONS.
%
%   [Wq, info] = ... also gives every intermediate:
%     codes      uint8, the size of W; 0 where a weight is pruned, 1 .. 2^b - 1 its interval
%     levels     single 1 x N, the quantization levels, ascending by code; N = 2^b - 1
%     c_neg      the clip of the negative side, <= 0
%     c_pos      the clip of the positive side, >= 0
%     intervals  N x 2, lower and upper bounds on the axis
%     n_clipped  1 x 2, how many weights p stands for: [negative, positive], or twice the one
%                number of the whole layer
%     edges_neg, edges_pos   interior edges as magnitudes, ascending, columns
%     counts     1 x N, the number of weights in each interval
%
%   RECONSTRUCTED from F. Tung and G. Mori, "CLIP-Q", CVPR 2018, Figures 1 and 2, and from
%   secondary sources.  It is not the authors' code, which was not at hand.
%
%   Runs in MATLAB R2016b and later and in GNU Octave 6 and later.

  if nargin < 4
    conv = ws_conventions();
  end
  check_arguments(W, p, b);

  w = double(W(:));
  mag = abs(w);
  [clip_neg, clip_pos, pruned, n_clipped] = clipping(w, p, conv);
  ext_neg = max([0; mag(w < 0)]);
  ext_pos = max([0; mag(w > 0)]);

  switch conv.partition
    case 'per_sign'
      part = partition_per_sign(b, clip_neg, ext_neg, clip_pos, ext_pos);
    case 'joined'
      part = partition_joined(b, clip_neg, ext_neg, clip_pos, ext_pos);
    otherwise
      unknown_option('partition', conv.partition);
  end
  codes = assign(w, part, conv.edge);
  codes(pruned) = 0;

  n_levels = 2^b - 1;
  kept = reshape(find(codes > 0), [], 1);
  counts = accumarray(codes(kept), 1, [n_levels, 1]);
  sums = accumarray(codes(kept), w(kept), [n_levels, 1]);
  levels = sums ./ max(counts, 1);
  switch conv.empty_level
    case 'centre'
      levels(counts == 0) = part.centres(counts == 0);
    case 'zero'
      levels(counts == 0) = 0;
    otherwise
      unknown_option('empty_level', conv.empty_level);
  end
  levels = single(levels);

  Wq = zeros(size(W), class(W));
  Wq(kept) = levels(codes(kept));

  info.codes = reshape(uint8(codes), size(W));
  info.levels = levels(:)';
  info.c_neg = -clip_neg;
  info.c_pos = clip_pos;
  info.intervals = part.intervals;
  info.n_clipped = n_clipped;
  info.edges_neg = sort(part.edges_neg);
  info.edges_pos = part.edges_pos;
  info.counts = counts(:)';
end

function check_arguments(W, p, b)
  if ~isfloat(W) || ~isreal(W)
    error('clipq:weights', 'ws_learn_one_layer: W must be real, single or double; it is %s', class(W));
  end
  if any(~isfinite(W(:)))
    error('clipq:weights', 'ws_learn_one_layer: W has %d NaN or Inf', sum(~isfinite(W(:))));
  end
  if ~isscalar(p) || ~(p >= 0 && p <= 1)
    error('clipq:setting', 'ws_learn_one_layer: p must be a number from 0 to 1');
  end
  if ~isscalar(b) || ~any(b == 2:8)
    error('clipq:setting', 'ws_learn_one_layer: b must be an integer from 2 to 8');
  end
end

function [clip_neg, clip_pos, pruned, n_clipped] = clipping(w, p, conv)
% Both clips as magnitudes, and which weights are pruned.
  mag = abs(w);
  pruned = (w == 0);
  switch conv.clip_scope
    case 'per_sign'
      neg = find(w < 0);
      pos = find(w > 0);
      [clip_neg, out_neg, k_neg] = clip_one(mag(neg), p, conv);
      [clip_pos, out_pos, k_pos] = clip_one(mag(pos), p, conv);
      pruned(neg(out_neg)) = true;
      pruned(pos(out_pos)) = true;
      n_clipped = [k_neg, k_pos];
    case 'all_weights'
      [clip, out, k] = clip_one(mag, p, conv);
      pruned(out) = true;
      clip_neg = min(clip, max([0; mag(w < 0)]));
      clip_pos = min(clip, max([0; mag(w > 0)]));
      n_clipped = [k, k];
    otherwise
      unknown_option('clip_scope', conv.clip_scope);
  end
end

function [clip, out, k] = clip_one(mag, p, conv)
% The clip of one set of magnitudes; out(i) is true where mag(i) is pruned.
  n = numel(mag);
  out = false(n, 1);
  clip = 0;
  k = 0;
  if n == 0
    return
  end
  switch conv.clip_count
    case 'ceil'
      k = ceil(p * n);
    case 'round'
      k = round(p * n);
    case 'floor'
      k = floor(p * n);
    otherwise
      unknown_option('clip_count', conv.clip_count);
  end
  k = min(k, n);
  [sorted, order] = sort(mag);          % stable: equal magnitudes stay in linear order
  padded = [0; sorted; sorted(end)];    % m_0 = 0 and m_(n+1) = m_n
  last_out = padded(k + 1);
  first_in = padded(k + 2);

  switch conv.clip_value
    case 'last_clipped'
      clip = last_out;
    case 'first_kept'
      clip = first_in;
    case 'midpoint'
      clip = (last_out + first_in) / 2;
    case 'quantile'                      % MATLAB's: sample i stands at (i - 0.5) / n
      if ~strcmp(conv.clip_count, 'round')
        error('clipq:setting', 'ws_learn_one_layer: clip_value quantile needs clip_count round');
      end
      clip = last_out + (p * n + 0.5 - k) * (first_in - last_out);
      if k == 0
        clip = first_in;                   % no sample stands below the first
      end
    otherwise
      unknown_option('clip_value', conv.clip_value);
  end

  out(order(1:k)) = true;
  if strcmp(conv.clip_value, 'quantile') || (k >= 1 && k < n && last_out == first_in)
    switch conv.clip_ties
      case 'prune'
        out = mag <= clip;
      case 'keep'
        out = mag < clip;
      case 'first'                       % exactly the k that the stable sort puts first
      otherwise
        unknown_option('clip_ties', conv.clip_ties);
    end
  end
end

function part = partition_per_sign(b, clip_neg, ext_neg, clip_pos, ext_pos)
% Each side uniformly from its clip to its extreme: 2^(b-1) intervals below zero, 2^(b-1) - 1 above.
  n_neg = 2^(b - 1);
  n_pos = 2^(b - 1) - 1;
  bounds_neg = uniform_bounds(clip_neg, ext_neg, n_neg);
  bounds_pos = uniform_bounds(clip_pos, ext_pos, n_pos);
  part.edges_neg = bounds_neg(end-1:-1:2);     % in ascending order on the axis
  part.edges_pos = bounds_pos(2:end-1);
  axis_neg = -flipud(bounds_neg);
  part.intervals = [axis_neg(1:end-1), axis_neg(2:end); bounds_pos(1:end-1), bounds_pos(2:end)];
  part.centres = (part.intervals(:, 1) + part.intervals(:, 2)) / 2;
  part.first_neg = 1;
  part.first_pos = n_neg + 1;
end

function bounds = uniform_bounds(lower, upper, n)
  j = (1:n-1)';
  bounds = [lower; lower + (upper - lower) * j / n; upper];
end

function part = partition_joined(b, clip_neg, ext_neg, clip_pos, ext_pos)
% The two non-clipped axes laid end to end, t = 0 .. len, in 2^b - 1 equal intervals.
  n = 2^b - 1;
  len_neg = ext_neg - clip_neg;
  len = len_neg + (ext_pos - clip_pos);
  t = uniform_bounds(0, len, n);
  inner = t(2:end-1);
  below = inner < len_neg;
  part.edges_neg = ext_neg - inner(below);
  part.edges_pos = clip_pos + (inner(~below) - len_neg);
  bounds = on_axis(t, len_neg, ext_neg, clip_pos);
  part.intervals = [bounds(1:end-1), bounds(2:end)];
  part.centres = on_axis((t(1:end-1) + t(2:end)) / 2, len_neg, ext_neg, clip_pos);
  part.first_neg = 1;
  part.first_pos = 1 + sum(below);             % a positive weight below every positive edge
end

function x = on_axis(t, len_neg, ext_neg, clip_pos)
  x = clip_pos + (t - len_neg);
  below = t < len_neg;
  x(below) = -(ext_neg - t(below));
end

function codes = assign(w, part, edge)
% The interval of every weight, counted in the edges that lie on the axis below it.
  neg = w < 0;
  pos = w > 0;
  codes = zeros(numel(w), 1);
  switch edge                            % whether an edge of the weight's own magnitude is passed
    case 'outer'
      passes = {@gt, @le};
    case 'inner'
      passes = {@ge, @lt};
    case 'upper'
      passes = {@ge, @le};
    case 'lower'
      passes = {@gt, @lt};
    otherwise
      unknown_option('edge', edge);
  end
  below_neg = edges_passed(passes{1}, part.edges_neg, abs(w(neg)));
  below_pos = edges_passed(passes{2}, part.edges_pos, w(pos));
  codes(neg) = part.first_neg + below_neg;
  codes(pos) = part.first_pos + below_pos;
end

function passed = edges_passed(relation, edges, mag)
  passed = sum(bsxfun(relation, edges(:)', mag(:)), 2);
end

function unknown_option(field, value)
  error('clipq:setting', 'ws_learn_one_layer: convention %s has no option %s', field, value);
end
