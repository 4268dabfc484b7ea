"""What ``clipq.bayesopt`` is made of: Gaussian process, acquisition, candidates, options and traces."""
