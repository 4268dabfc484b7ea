function [theta, trace] = ws_search(net, X, labels, opt)
%WS_SEARCH  The pruning rate and the bits of each layer, one layer after the other.
%
%   [theta, trace] = WS_SEARCH(net, X, labels, opt) minimises eps - lambda * c over all candidates:
%   eps is the top-1 error on the samples X (inputs x samples) with labels 1, 2, ..., c the saving of
%   the layer as a fraction of the whole network.  The release chose its evaluations by Bayesian
%   optimisation; here every candidate is evaluated, which has one answer.
%
%   net    as WS_TRAIN takes it
%   opt    p, b     the candidates, rows;  lambda;  conv, see WS_CONVENTIONS
%   theta  2 x 2, [p b] of each layer
%   trace  eps, bits and value, (candidates of p x candidates of b) x 2 layers, b the fastest
%
%   RECONSTRUCTED from F. Tung and G. Mori, "CLIP-Q", CVPR 2018, section 3.2, and from secondary
%   sources.  It is not the authors' code, which was not at hand.

  names = {'W1', 'W2'};
  dense_bits = [bits_of(net.W1), bits_of(net.W2)];
  n_candidates = numel(opt.p) * numel(opt.b);
  trace = struct('eps', zeros(n_candidates, 2), 'bits', zeros(n_candidates, 2), 'value', zeros(n_candidates, 2));
  theta = zeros(2, 2);

  for i = order_of(net, opt.conv)
    full = net.(names{i});
    best = Inf;
    row = 0;
    for p = opt.p(:)'
      for b = opt.b(:)'
        row = row + 1;
        [Wq, layer] = ws_learn_one_layer(full, p, b, opt.conv);
        net.(names{i}) = Wq;
        trace.eps(row, i) = top1_error(net, X, labels);
        trace.bits(row, i) = encoded_bits(layer, b, opt.conv);
        saving = (dense_bits(i) - trace.bits(row, i)) / sum(dense_bits);
        trace.value(row, i) = trace.eps(row, i) - opt.lambda * saving;
        if trace.value(row, i) < best
          best = trace.value(row, i);
          theta(i, :) = [p, b];
          chosen = Wq;
        end
      end
    end
    switch opt.conv.search_context
      case 'quantized'
        net.(names{i}) = chosen;
      case 'full_precision'
        net.(names{i}) = full;
      otherwise
        error('clipq:setting', 'ws_search: convention search_context has no option %s', opt.conv.search_context);
    end
  end
end

function order = order_of(net, conv)
  switch conv.search_order
    case 'forward'
      order = 1:2;
    case 'backward'
      order = 2:-1:1;
    case 'largest_first'
      [~, order] = sort([numel(net.W1), numel(net.W2)], 'descend');
    otherwise
      error('clipq:setting', 'ws_search: convention search_order has no option %s', conv.search_order);
  end
end

function bits = bits_of(W)
  bits = 32 * numel(W) * (1 + isa(W, 'double'));
end

function bits = encoded_bits(layer, b, conv)
  coded = struct('name', 'layer', 'shape', fliplr(size(layer.codes)), 'dtype', 'float64', 'b', b, ...
                 'codes', layer.codes, 'levels', layer.levels);
  [~, info] = encode_sparse_quantized_net_v2(coded, conv);
  bits = info.bits;
end

function e = top1_error(net, X, labels)
  H = max(bsxfun(@plus, net.W1' * X, net.b1), 0);
  [~, class] = max(bsxfun(@plus, net.W2' * H, net.b2), [], 1);
  e = mean(class(:) ~= labels(:));
end
