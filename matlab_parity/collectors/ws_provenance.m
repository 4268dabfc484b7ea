function provenance = ws_provenance(files)
%WS_PROVENANCE  What a fixture is made with: the engine, and SHA-256 of every file that goes into it.
%
%   files is a cell row of paths below matlab_parity: reference, collector and inputs.  The fixture
%   carries this with it, so that a later change of any of them shows.

  if exist('OCTAVE_VERSION', 'builtin')
    provenance.engine = 'GNU Octave';
    provenance.version = OCTAVE_VERSION();
  else
    provenance.engine = 'MATLAB';
    provenance.version = version();
  end
  root = fileparts(fileparts(mfilename('fullpath')));
  provenance.sources = struct('file', files, 'sha256', cellfun(@(f) sha256(fullfile(root, f)), files, ...
                                                               'UniformOutput', false));
end

function text = sha256(file)
  id = fopen(file, 'r');
  if id < 0
    error('clipq:file', 'ws_provenance: cannot open %s', file);
  end
  bytes = fread(id, Inf, 'uint8=>uint8');
  fclose(id);
  if exist('OCTAVE_VERSION', 'builtin')
    text = hash('sha256', char(bytes'));
  else
    digest = java.security.MessageDigest.getInstance('SHA-256');
    text = lower(reshape(dec2hex(typecast(digest.digest(bytes), 'uint8'), 2)', 1, []));
  end
end
