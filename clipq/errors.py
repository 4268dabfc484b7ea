"""Every error that clipq raises on purpose.  Each says what is wrong, what was expected and what was given."""


class ClipqError(ValueError):
    """The root of clipq's errors."""


class SettingError(ClipqError):
    """A pruning rate p, a bit width b, a convention or an option that is not allowed."""


class WeightError(ClipqError):
    """Weights that cannot be pruned and quantized (NaN, Inf, an unsupported type); names the layer."""


class ModelError(ClipqError):
    """A network that cannot be compressed as asked; names the module."""


class DataError(ClipqError):
    """A data set that is missing, incomplete or damaged; names the file."""


class PictureError(DataError):
    """A picture that cannot be read, in a run that is to leave none out; names it."""


class ExperimentError(ClipqError):
    """An experiment's file or an override that cannot be understood; names the key."""


class CheckpointError(ClipqError):
    """A checkpoint or log that cannot be read or does not belong to this run; names the file."""


class WriteError(ClipqError):
    """A file that cannot be written: a full disk, a folder that is missing; names the file, whose old content stays."""


class Interrupted(KeyboardInterrupt):
    """A run that ends early because it was asked to (SIGINT, SIGTERM), its state saved; says where it stands."""


class ClipqFormatError(ClipqError):
    """A compressed file that is not what it should be.  Subclasses, one a corruption, stand with the reader."""
