function conv = ws_conventions(varargin)
%WS_CONVENTIONS  The readings of the paper that its sources leave open: one struct, one field each.
%
%   conv = WS_CONVENTIONS() gives the defaults; conv = WS_CONVENTIONS('partition', 'joined', ...)
%   replaces some.  ASSUMPTIONS.md says what each field decides (ids A01, A02, ...).

  conv = struct( ...
      'clip_scope', 'per_sign', ...         % A01  or all_weights
      'clip_count', 'ceil', ...             % A02  or round, floor
      'clip_value', 'last_clipped', ...     % A03  or first_kept, midpoint, quantile
      'clip_ties', 'prune', ...             % A04  or keep, first
      'partition', 'per_sign', ...          % A05  or joined
      'edge', 'outer', ...                  % A06  or inner, upper, lower
      'empty_level', 'centre', ...          % A07  or zero
      'index_bits', 'best', ...             % A08  or deep_compression
      'count_codebook', 'yes', ...          % A09  or no
      'search_order', 'forward', ...        % A10  or backward, largest_first
      'search_context', 'quantized');       % A11  or full_precision
  for i = 1:2:numel(varargin)
    if ~isfield(conv, varargin{i})
      error('clipq:setting', 'ws_conventions: no field %s', varargin{i});
    end
    conv.(varargin{i}) = varargin{i + 1};
  end
end
