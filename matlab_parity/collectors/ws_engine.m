function engine = ws_engine()
%WS_ENGINE  Which program runs this code: a struct with the fields name and version.
  if exist('OCTAVE_VERSION', 'builtin')
    engine = struct('name', 'GNU Octave', 'version', OCTAVE_VERSION());
  else
    engine = struct('name', 'MATLAB', 'version', version());
  end
end
