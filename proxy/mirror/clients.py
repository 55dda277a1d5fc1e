"""The clients: where each has its configuration, what stands in it, and what must not be there beside it."""

from __future__ import annotations

import ssl
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.mirror.names import DEFAULT, Address, Registry
from proxy.mirror.pieces import Lists, Piece, Tables, Whole, prefix

CA_FILE: Final = "millpond-ca.pem"  # not .crt: Docker's way to name authorities, which containerd follows too


@dataclass(frozen=True, slots=True)
class Client:
    """`directory` is where everything goes by default; `then` is what makes the client read it."""

    directory: str
    then: str
    pieces: Callable[[Path, Address, Sequence[Registry], Path | None], list[Piece]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one client gets. `then` is for people: what is left to do. `left_out` cannot be had."""

    client: str
    directory: Path
    address: Address
    pieces: Sequence[Piece]
    then: str
    left_out: Sequence[str] = ()

    def obstacle(self, piece: Piece) -> str | None:
        """What beside `piece` would make it do harm, with what to do; None if nothing."""
        if self.client == "containerd" and piece.path.endswith("hosts.toml"):
            return _certificates(self.directory / piece.path)
        if self.client == "podman" and isinstance(piece, Tables):
            return _other_tables(self.directory, piece)
        return None

    def remarks(self) -> list[str]:
        """What else there is to know before it is installed."""
        if self.left_out:
            gone = ", ".join(self.left_out)
            return [f"{gone}: left out, since {self.client} puts the name into a path, where no port can stand"]
        if self.client != "containerd" or not (self.directory / DEFAULT / "hosts.toml").exists():
            return []
        names = [Path(piece.path).parent.name for piece in self.pieces if piece.path.endswith("hosts.toml")]
        if DEFAULT in names:
            return []
        return [
            f"{self.directory / DEFAULT / 'hosts.toml'} no longer counts for {', '.join(names)}, which have their own"
        ]


def plan(
    client: str, address: Address, registries: Sequence[Registry], *, directory: Path | None = None, ca: Path | None
) -> Plan:
    """`ca` is a file with the authority of Millpond's certificate.

    Raises:
        ValueError: the client cannot have this, with the reason.
        OSError: `ca` cannot be read.
    """
    if ca is not None and not address.tls:
        raise ValueError("a certificate authority has a meaning with https:// only")
    if ca is not None:
        _refuse_no_authority(ca)
    if client != "containerd" and any(registry.name == DEFAULT for registry in registries):
        raise ValueError(f"{DEFAULT} is containerd's name for every registry; {client} has none")
    kind = CLIENTS[client]
    where = directory or Path(kind.directory)
    left_out = [registry.name for registry in registries if client == "podman" and ":" in registry.name]
    usable = [registry for registry in registries if registry.name not in left_out]
    if not usable:
        raise ValueError(
            f"{client} puts the registry's name into a path, where no port can stand: {', '.join(left_out)}"
        )
    return Plan(client, where, address, kind.pieces(where, address, usable, ca), kind.then, left_out)


def _containerd(where: Path, address: Address, registries: Sequence[Registry], ca: Path | None) -> list[Piece]:
    pieces: list[Piece] = []
    lines = [f'[host."{address.url}"]', '  capabilities = ["pull", "resolve"]']
    if ca:
        # Beside the file, which may be on a node that does not have `ca` itself.
        lines.append(f'  ca = "{CA_FILE}"')
    lines += [
        "  # containerd 2.0 and later: how long to wait for a Millpond that is gone. Earlier ones pass over it.",
        '  dial_timeout = "3s"',
    ]
    tables = "\n".join([*lines, ""])
    for registry in registries:
        folder = _folder(where, registry.name)
        if ca:
            pieces.append(Whole(f"{folder}/{CA_FILE}", ca.read_bytes()))
        pieces.append(Tables(f"{folder}/hosts.toml", _hosts_head(registry, folder) + tables, tables, "first"))
    return pieces


def _hosts_head(registry: Registry, folder: str) -> str:
    path = f"# /etc/containerd/certs.d/{folder}/hosts.toml\n"
    if registry.server is None:
        return (
            f"{path}# Every registry without a directory of its own. There is no `server` line: each registry stays its"
            " own way around\n# Millpond, which answers 404 for a registry that it does not know.\n\n"
        )
    return f'{path}# Millpond first; upstream itself stays as the way around it.\nserver = "{registry.server}"\n\n'


def _folder(where: Path, name: str) -> str:
    """containerd looks for host_port_ first, then for host:port: the one that is there already, else the first."""
    host, colon, port = name.rpartition(":")
    if not colon or (where / name).is_dir():
        return name
    return f"{host}_{port}_"


def _docker(where: Path, address: Address, registries: Sequence[Registry], ca: Path | None) -> list[Piece]:
    del where
    if not any(registry.name == "docker.io" for registry in registries):
        raise ValueError("Docker uses a mirror for docker.io only; name other images by Millpond's address")
    insecure = {} if address.tls else {"insecure-registries": [address.host]}
    lists = Lists("daemon.json", {"registry-mirrors": [address.url], **insecure})
    return [*_trusted(address, ca), lists]


def _podman(where: Path, address: Address, registries: Sequence[Registry], ca: Path | None) -> list[Piece]:
    del where
    insecure = "" if address.tls else "insecure = true\n"
    tables = "\n".join(
        f'[[registry]]\nprefix = "{registry.name}"\nlocation = "{registry.name}"\n\n'
        f'[[registry.mirror]]\nlocation = "{address.host}/{registry.name}"\n{insecure}'
        for registry in registries
    )
    plain = "" if address.tls else " `insecure` is plain HTTP: with TLS, remove it."
    head = (
        "# /etc/containers/registries.conf.d/millpond.conf, for podman, CRI-O, Buildah and skopeo.\n"
        f"# Millpond first; the registry itself stays as the way around it.{plain}\n\n"
    )
    return [*_trusted(address, ca), Tables("registries.conf.d/millpond.conf", head + tables, tables, "last")]


def _k3s(where: Path, address: Address, registries: Sequence[Registry], ca: Path | None) -> list[Piece]:
    mirrors = "".join(f"  {_key(registry.name)}:\n    endpoint:\n      - {address.url}\n" for registry in registries)
    configs = f'configs:\n  "{address.host}":\n    tls:\n      ca_file: "{_quotable(ca)}"\n' if ca else ""
    text = (
        "# /etc/rancher/k3s/registries.yaml (RKE2: /etc/rancher/rke2/registries.yaml), on every node.\n"
        "# The registry itself stays as the way around Millpond: k3s always tries it last.\n"
        f"mirrors:\n{mirrors}{configs}"
    )
    instead = f"{where / 'registries.yaml'} is somebody else's; write this into it by hand:\n{text}"
    return [Whole("registries.yaml", text.encode(), text, instead)]


def _buildkit(where: Path, address: Address, registries: Sequence[Registry], ca: Path | None) -> list[Piece]:
    del where
    tables = "".join(f'[registry."{registry.name}"]\n  mirrors = ["{address.host}"]\n\n' for registry in registries)
    if ca:
        tables += f'[registry."{address.host}"]\n  ca = ["{_quotable(ca)}"]\n'
    elif not address.tls:
        tables += f'# Plain HTTP; with TLS, remove it.\n[registry."{address.host}"]\n  http = true\n'
    tables = tables.rstrip("\n") + "\n"
    head = (
        "# /etc/buildkit/buildkitd.toml; with buildx: docker buildx create --use --config buildkitd.toml\n"
        "# The registry itself stays as the way around Millpond: BuildKit tries it last.\n\n"
    )
    return [Tables("buildkitd.toml", head + tables, tables, "last")]


def _trusted(address: Address, ca: Path | None) -> list[Piece]:
    """Docker's and podman's way to trust an authority for one registry."""
    return [Whole(f"certs.d/{address.host}/ca.crt", ca.read_bytes())] if ca else []


def _refuse_no_authority(file: Path) -> None:
    """With one that it cannot read, a client does not even go on to the registry itself; a key is nobody's to read."""
    data = file.read_bytes()
    if b"PRIVATE KEY" in data:
        raise ValueError(
            f"{file} has a private key, which every user of the node could read; give the certificate alone"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise ValueError(
            f"{file} has no certificate in PEM: with it, clients would not pull from anywhere; give the authority's, "
            "or leave it out where the machine trusts it already"
        ) from None


def _key(name: str) -> str:
    return f'"{name}"' if ":" in name else name


def _quotable(path: Path) -> str:
    """An absolute path that means itself between double quotes, in TOML and in YAML."""
    text = str(path.absolute())
    if not text.isprintable() or '"' in text or "\\" in text:
        raise ValueError(f"{text!r} cannot be written into a configuration; give the file a plain name")
    path.read_bytes()  # a name that nothing can be read from would break every pull
    return text


def _certificates(hosts: Path) -> str | None:
    """Without a hosts.toml, containerd takes Docker's certificate files of the folder; with one, it does not."""
    if hosts.exists():
        return None
    files = sorted(file.name for file in hosts.parent.glob("*") if file.suffix in (".crt", ".cert", ".key"))
    if not files:
        return None
    return (
        f"{hosts.parent} has {', '.join(files)}, which containerd would pass over beside a hosts.toml, and with that "
        f"the registry itself could not be reached; write a hosts.toml there that names them (ca, client), then again"
    )


def _other_tables(directory: Path, piece: Tables) -> str | None:
    """In podman, the last file that has a registry replaces all that others say of it."""
    own = {prefix(registry) for registry in tomllib.loads(piece.tables)["registry"]}
    files = [directory / "registries.conf", *sorted((directory / "registries.conf.d").glob("*.conf"))]
    for file in files:
        if file == directory / piece.path or not file.is_file():
            continue
        try:
            document = tomllib.loads(file.read_text())
        except (OSError, ValueError):
            continue  # it breaks podman by itself, and podman says so
        registries = document.get("registry")
        shared = own & {prefix(registry) for registry in (registries if isinstance(registries, list) else [])}
        if shared:
            names = ", ".join(sorted(shared))
            return (
                f"{file} has a [[registry]] for {names}, and only one of both files would count; take it out there, or "
                f"write Millpond's [[registry.mirror]] below it and leave {names} out here with --registry"
            )
    return None


CLIENTS: Final[Mapping[str, Client]] = {
    "containerd": Client(
        "/etc/containerd/certs.d", "Nothing to restart: containerd reads these files anew for every pull.", _containerd
    ),
    "docker": Client(
        "/etc/docker",
        "Then: systemctl reload docker. Docker uses a mirror for docker.io only; for others, put Millpond's address "
        "in front of the image's name.",
        _docker,
    ),
    "podman": Client(
        "/etc/containers", "podman, Buildah and skopeo read it at each start. CRI-O: systemctl reload crio.", _podman
    ),
    "k3s": Client("/etc/rancher/k3s", "Then restart the node's k3s, k3s-agent or rke2.", _k3s),
    "buildkit": Client("/etc/buildkit", "Then restart buildkitd.", _buildkit),
}
