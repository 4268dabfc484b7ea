"""How the Python port is held against MATLAB: reference code, fixtures, comparison, assumptions, deviations."""
