"""How an endpoint is set up: what it listens on, whom it answers, and its limits."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from quee.errors import UsageError

MIB = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Seconds, bytes and images; the defaults suit one machine's own use.

    Raises UsageError where a value is out of range, or where strangers would be answered: a host beyond this machine
    needs a token, or `anonymous`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    anonymous: bool = False
    names: tuple[str, ...] = ()
    """Host names answered to beside the loopback's own; any when the host is not a loopback address and this is empty."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may call."""
    max_body: int = 16 * MIB
    bodies: int = 256 * MIB
    """Bytes of request bodies held at once."""
    max_pixels: int = 16_777_216
    max_images: int = 1024
    """Images in one request."""
    queue: int = 1024
    """Images admitted and not yet answered; beyond it, 503."""
    connections: int = 4096
    """Open at once; more than `queue`, so that what is too much is told when to come back."""
    header_timeout: float = 10.0
    """For a request's head, from its first byte or the connection's start."""
    body_timeout: float = 30.0
    write_timeout: float = 30.0
    """For a client that does not read its answer."""
    keep_alive: float = 30.0
    deadline: float = 30.0
    """For an answer, from admission; 503 after."""
    drain: float = 0.5
    """Between `ready` turning false and no more connections taken, at the end."""
    grace: float = 30.0
    """For what is in flight at the end."""
    control: bool = True
    """Whether the budget applied is steered so that the one asked is spent."""
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
        """Whether a request's Host is one of ours: a page elsewhere whose name is made to point here is not."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self.names:
            return True
        if self.loopback:
            return name in ("localhost", "127.0.0.1", "::1", self.host)
        return not self.names
