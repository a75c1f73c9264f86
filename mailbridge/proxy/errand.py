"""What is asked of a proxy, and the words for every way in which that can fail."""

from __future__ import annotations

from dataclasses import dataclass

from mailbridge.errors import Unavailable
from mailbridge.proxy.place import Proxy, authority


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A proxy and what it is asked to connect to; makes the errors that come of it.

    None of them repeats the proxy's own words: those could hold the password again.
    """

    proxy: Proxy
    host: str
    port: int

    @property
    def target(self) -> str:
        """``host:port``."""
        return authority(self.host, self.port)

    def failure(self, what: str, code: str, fix: str) -> Unavailable:
        """Return the error for what became of it."""
        return Unavailable(f"proxy {self.proxy.place} {what}", code=f"proxy.{code}", fix=fix)

    def unknown(self) -> Unavailable:
        """Say that the proxy's own name has no address."""
        return self.failure(
            "has no address: its name is not known",
            "dns",
            f"Check the host in {self.proxy.origin}, and the resolver of this machine.",
        )

    def unreached(self, why: str) -> Unavailable:
        """Say that there is no TCP connection to the proxy."""
        return self.failure(
            f"cannot be reached: {why}",
            "connection",
            f"Check that it runs, and host and port in {self.proxy.origin}.",
        )

    def silent(self) -> Unavailable:
        """Say that the proxy took the connection and answers not at all, or too slowly."""
        return self.failure(
            f"did not answer in time when asked for {self.target}",
            "timeout",
            f"Check that the port in {self.proxy.origin} speaks {self._speech}, and that the "
            f"proxy itself can reach {self.target}.",
        )

    def broken_off(self) -> Unavailable:
        """Say that the proxy ended the connection instead of answering."""
        return self.failure(
            f"closed the connection when asked for {self.target}", "closed", self._wrong_kind
        )

    def garbled(self) -> Unavailable:
        """Say that the proxy's answer is of another protocol."""
        return self.failure(
            f"does not speak {self._speech}: its answer could not be understood",
            "protocol",
            self._wrong_kind,
        )

    def rushed(self) -> Unavailable:
        """Say that bytes came through the tunnel before anything was asked."""
        return self.failure(
            "sent bytes behind its answer that nobody had asked for", "protocol", self._wrong_kind
        )

    def sign_in(self, said: str, *, basic: bool = True) -> Unavailable:
        """Say that the proxy wants to know who asks."""
        place = self.proxy.place
        if not basic:
            return self.failure(
                f"takes no user and password, only Kerberos or NTLM ({said})",
                "auth",
                f"Let it permit this machine without sign-in, or with Basic, to {self.target}.",
            )
        if self.proxy.user:
            return self.failure(
                f"refuses the user or the password ({said})",
                "auth",
                f"Put the right ones into the URL that {self.proxy.origin} holds; special "
                "characters are written as %XX.",
            )
        return self.failure(
            f"wants a user and a password ({said})",
            "auth",
            f"Write `proxy: {{env: NAME}}` and set that variable to "
            f"{self.proxy.scheme}://USER:PASSWORD@{place}.",
        )

    def forbidden(self, said: str) -> Unavailable:
        """Say that the proxy's rules do not permit this target."""
        return self.failure(
            f"does not permit connections to {self.target} ({said})",
            "forbidden",
            f"Let its rules permit {self.target} (many permit port 443 only), or write "
            "`proxy: off` if this machine may connect directly.",
        )

    def no_way(self, said: str) -> Unavailable:
        """Say that the proxy tried and could not reach the target."""
        return self.failure(
            f"cannot reach {self.target} ({said})",
            "target",
            "Check that name and port, and the proxy's own resolver and way out."
            + ("" if self.proxy.resolves else " With socks5h:// the proxy looks names up itself."),
        )

    def nonsense(self) -> Unavailable:
        """Say that the proxy was not even asked."""
        return self.failure(
            "was not asked: the target is not the name of a host",
            "target",
            "Check the host of the target.",
        )

    def refused(self, said: str) -> Unavailable:
        """Say no for any other reason."""
        return self.failure(
            f"refuses to connect to {self.target} ({said})", "refused", "Look into its log."
        )

    @property
    def _speech(self) -> str:
        return "HTTP CONNECT" if self.proxy.scheme == "http" else "SOCKS5"

    @property
    def _wrong_kind(self) -> str:
        other = "socks5h://" if self.proxy.scheme == "http" else "http://"
        return f"Check the port in {self.proxy.origin}, and whether it is a proxy of kind {other}."
