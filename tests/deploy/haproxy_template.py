"""The chart's HAProxy configuration: the text of deploy/haproxy/haproxy.cfg, but for what is different in a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SHIPPED: Final = ROOT / "deploy" / "haproxy" / "haproxy.cfg"

_WRITTEN: Final = (
    "{{- /* Written by `python -m tests.deploy.generate` from deploy/haproxy/haproxy.cfg: change that. */ -}}\n"
)
_GLOBAL: Final = """\
    hard-stop-after {{ .Values.haproxy.drainSeconds }}s
{{- if .Values.tls.enabled }}
    ssl-default-bind-options ssl-min-ver TLSv1.2
    # The key of tls.crt is tls.key, as Kubernetes names it, and not tls.crt.key.
    ssl-load-extra-del-ext
{{- end }}
"""
_RESOLVERS: Final = """\
resolvers cluster
    parse-resolv-conf
    accepted_payload_size 8192
    resolve_retries 3
    timeout resolve 1s
    timeout retry 1s
    # An instance that starts anew has a new address within this time.
    hold valid 5s
    hold obsolete 0s
    # DNS that fails is no reason to forget an instance that answers.
    hold nx 30s
    hold other 30s
    hold refused 30s
    hold timeout 30s

frontend registry
"""
_BIND: Final = (
    '    bind {{ ternary "[::]:5000 v4v6" ":5000" .Values.haproxy.ipv6 }} proto h1'
    "{{ if .Values.tls.enabled }} ssl crt /run/secrets/millpond-tls/tls.crt alpn http/1.1"
    "{{ if .Values.tls.clientCaSecret }} ca-file /run/secrets/millpond-client-ca/ca.crt verify required"
    "{{ end }}{{ end }}\n"
)
_OURS_TO_SAY: Final = """\
{{- if not (or .Values.ingress.enabled .Values.httpRoute.enabled) }}
    http-request del-header X-Forwarded-For
{{- end }}
"""
_BALANCE: Final = """\
{{- with .Values.haproxy.hashBalanceFactor }}
    hash-balance-factor {{ . }}
{{- end }}
"""
_CHECK: Final = ' check port {{ include "millpond.adminPort" . }} resolvers cluster init-addr none '
_SERVERS: Final = """\
{{- $name := include "millpond.fullname" . }}
{{- $domain := printf "%s-instances.%s.svc.%s" $name .Release.Namespace .Values.clusterDomain }}
{{- $port := include "millpond.registryPort" . }}
{{- range $index := until (include "millpond.maxReplicas" . | int) }}
    server {{ $name }}-{{ $index }} {{ $name }}-{{ $index }}.{{ $domain }}:{{ $port }} id {{ add1 $index }}
{{- end }}
"""
# Each must be there exactly once, or the shipped file has changed under us.
_IN_A_CLUSTER: Final = (
    # A container's user is the pod's, its root file system is read-only, and nobody asks the socket.
    (r"    stats socket .*\n", ""),
    (r"(?:    #.*\n)*    user haproxy\n    group haproxy\n", ""),
    (r"    hard-stop-after 120s\n", _GLOBAL),
    (r"frontend registry\n", _RESOLVERS),
    (r"    bind :5000 proto h1\n", _BIND),
    (r"    bind :8404\n", '    bind {{ ternary "[::]:8404 v4v6" ":8404" .Values.haproxy.ipv6 }}\n'),
    (r"    http-request del-header X-Forwarded-For\n", _OURS_TO_SAY),
    (r"str\(docker\.io\)", 'str({{ default "docker.io" .Values.config.default_upstream }})'),
    (r"    # hash-balance-factor 125\n", _BALANCE),
    (r" check port 5001 ", _CHECK),
    (r"(?:    server millpond-.*\n)+", _SERVERS),
)


def haproxy_template() -> str:
    """files/haproxy.cfg.tpl"""
    text = SHIPPED.read_text()
    if "{{" in text:
        raise LookupError(f"{SHIPPED} has braces, which are Helm's")
    for old, new in _IN_A_CLUSTER:
        parts = re.split(old, text)
        if len(parts) != 2:
            raise LookupError(f"{len(parts) - 1} times in {SHIPPED}, and not once: {old}")
        text = new.join(parts)
    return _WRITTEN + text
