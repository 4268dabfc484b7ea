function [net, trace] = ws_train(net, X, labels, opt)
%WS_TRAIN  In-parallel pruning-quantization and fine-tuning of a network of two layers.
%
%   [net, trace] = WS_TRAIN(net, X, labels, opt)
%
%   net     W1 (inputs x hidden), b1 (hidden x 1), W2 (hidden x classes), b2 (classes x 1), double:
%           inner products with a ReLU between them and a softmax loss after them
%   X       inputs x samples;  labels  1 x samples, the classes counted from 1
%   opt     p, b        pruning rate and bits of the two layers, 1 x 2 each
%           lr, momentum, weight_decay      decay for W1 and W2 only
%           batches     minibatch size x iterations: columns of X, counted from 1
%           conv        see WS_CONVENTIONS
%
%   For each minibatch the full-precision weights are pruned and quantized anew, loss and gradients
%   are those of the quantized weights, and the gradients update the full-precision ones.  At the
%   end only the quantized weights remain, in net; net.codes1, levels1, ... describe them.
%
%   trace   of every iteration: loss (before its update), codes1, codes2 (those of its forward
%           pass), and after its update the full-precision W1, b1, W2, b2; one column an iteration
%
%   RECONSTRUCTED from F. Tung and G. Mori, "CLIP-Q", CVPR 2018, Figure 1.  It is not the authors'
%   code, which was not at hand.

  velocity = struct('W1', 0, 'b1', 0, 'W2', 0, 'b2', 0);
  decay = struct('W1', opt.weight_decay, 'b1', 0, 'W2', opt.weight_decay, 'b2', 0);
  names = fieldnames(velocity);
  n_iterations = size(opt.batches, 2);
  trace = struct('loss', zeros(1, n_iterations), ...
                 'codes1', zeros(numel(net.W1), n_iterations, 'uint8'), ...
                 'codes2', zeros(numel(net.W2), n_iterations, 'uint8'));
  for i = 1:numel(names)
    trace.(names{i}) = zeros(numel(net.(names{i})), n_iterations);
  end

  for t = 1:n_iterations
    [Q1, layer1] = ws_learn_one_layer(net.W1, opt.p(1), opt.b(1), opt.conv);
    [Q2, layer2] = ws_learn_one_layer(net.W2, opt.p(2), opt.b(2), opt.conv);
    batch = opt.batches(:, t);
    [loss, gradient] = loss_and_gradient(Q1, net.b1, Q2, net.b2, X(:, batch), labels(batch));
    trace.loss(t) = loss;
    trace.codes1(:, t) = layer1.codes(:);
    trace.codes2(:, t) = layer2.codes(:);
    for i = 1:numel(names)
      name = names{i};
      velocity.(name) = opt.momentum * velocity.(name) + gradient.(name) + decay.(name) * net.(name);
      net.(name) = net.(name) - opt.lr * velocity.(name);
      trace.(name)(:, t) = net.(name)(:);
    end
  end

  [net.W1, layer1] = ws_learn_one_layer(net.W1, opt.p(1), opt.b(1), opt.conv);
  [net.W2, layer2] = ws_learn_one_layer(net.W2, opt.p(2), opt.b(2), opt.conv);
  net.codes1 = layer1.codes;
  net.codes2 = layer2.codes;
  net.levels1 = layer1.levels;
  net.levels2 = layer2.levels;
end

function [loss, gradient] = loss_and_gradient(W1, b1, W2, b2, X, labels)
% Mean cross entropy of the minibatch and its gradient for every parameter.
  n = size(X, 2);
  Z = bsxfun(@plus, W1' * X, b1);              % hidden x n
  H = max(Z, 0);
  S = bsxfun(@plus, W2' * H, b2);              % classes x n
  S = bsxfun(@minus, S, max(S, [], 1));
  log_P = bsxfun(@minus, S, log(sum(exp(S), 1)));
  target = sub2ind(size(S), labels(:)', 1:n);
  loss = -mean(log_P(target));

  dS = exp(log_P);
  dS(target) = dS(target) - 1;
  dS = dS / n;
  dZ = (W2 * dS) .* (Z > 0);
  gradient = struct('W1', X * dZ', 'b1', sum(dZ, 2), 'W2', H * dS', 'b2', sum(dS, 2));
end
