"""A small OpenAI-Realtime-compatible server with real offline speech, for trying, developing and testing."""

from .config import ConfigError, LocalProviderConfig
from .server import LocalProvider, run, serve

__version__ = "0.1.0"
__all__ = ["ConfigError", "LocalProvider", "LocalProviderConfig", "run", "serve"]
