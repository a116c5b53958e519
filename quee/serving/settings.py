"""Settings of an endpoint: its address, its allowed callers, and its limits."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from quee.errors import UsageError
from quee.runtime.operating import Options

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Limits in seconds, bytes and images; the defaults suit local use on one machine.

    Raises UsageError for a value out of range, and for a host beyond this machine without a token or `anonymous`,
    because strangers would be answered.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    anonymous: bool = False
    names: tuple[str, ...] = ()
    """Host names accepted besides the loopback's own. If empty and the host is not a loopback address, any name is accepted."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may send requests."""
    max_body: int = 16 * MIB
    bodies: int = 256 * MIB
    """Most bytes of request bodies in memory at once."""
    max_pixels: int = 16_777_216
    max_images: int = 1024
    """Most images in one request."""
    queue: int = 1024
    """Most images admitted and not yet answered; more get status 503."""
    connections: int = 4096
    """Most open connections; more than `queue`, so that excess requests get a Retry-After."""
    header_timeout: float = 10.0
    """Time for a request's head, from its first byte or the connection's start."""
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    """Time for a client to read its answer."""
    keep_alive: float = 30.0
    deadline: float = 30.0
    """Time for an answer from admission on; then status 503."""
    drain: float = 0.5
    """Time at shutdown between `ready` becoming false and the last accepted connection."""
    grace: float = 30.0
    """Time at shutdown for requests in flight."""
    control: bool = True
    """Whether the applied budget is corrected so that the mean cost becomes the requested budget."""
    default: Options = field(default_factory=Options)
    """What holds for requests that name none: by default the bundle's own budget."""
    examples: Path | None = None
    """A folder of images or of Parquet files, shown on the page."""

    def __post_init__(self) -> None:
        for name in ("max_body", "bodies", "max_pixels", "max_images", "queue", "connections"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: give at least 1")
        for name in ("header_timeout", "body_timeout", "write_timeout", "keep_alive", "deadline", "grace"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}={getattr(self, name)}: give more than 0 seconds")
        if not 0 <= self.port < 65536:
            raise UsageError(f"port={self.port}: give 0 (any) to 65535")
        if self.bodies < self.max_body:
            raise UsageError(f"bodies={self.bodies}: give at least max_body, {self.max_body}")
        if self.token is not None and (len(self.token) < 16 or not self.token.isascii() or " " in self.token):
            raise UsageError("the token is short or has spaces: give at least 16 ASCII characters")
        if not self.loopback and self.token is None and not self.anonymous:
            raise UsageError(f"host {self.host} is reached from other machines: give a token, or --anonymous")

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def answers_to(self, host: str) -> bool:
        """Whether a request's Host is accepted; this refuses pages whose host name was made to point here (DNS rebinding)."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self.names:
            return True
        if self.loopback:
            return name in ("localhost", "127.0.0.1", "::1", self.host)
        return not self.names
