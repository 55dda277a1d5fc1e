{{- /* Written by `python -m tests.deploy.generate` from deploy/haproxy/haproxy.cfg: change that. */ -}}
# HAProxy 2.6 or later before several Millponds: each blob, and each repository, has its home on one of them. Their disks
# add up, and upstream is asked once for all.
# On bare metal (Debian: apt-get install haproxy) this is /etc/haproxy/haproxy.cfg as soon as the servers at the end of
# "backend instances" are yours. The Helm chart renders the same text with its pods as the servers.
# What one instance serves, and when to add one: deploy/sizing.md.

global
    # systemd and Kubernetes both keep what is written here.
    log stdout format raw local0 info
    # In place of maxconn: 25,000 connections of two files each, or what the system's limit of files allows, if that is
    # lower. A node takes up to six: three layers at a time, of two images. Each may take 32 KiB of buffers.
    fd-hard-limit 50000
    # SIGUSR1 or a reload: no new connection is taken, and pulls that run may end for so long. Clients resume the others.
    hard-stop-after {{ .Values.haproxy.drainSeconds }}s
{{- if .Values.tls.enabled }}
    ssl-default-bind-options ssl-min-ver TLSv1.2
    # The key of tls.crt is tls.key, as Kubernetes names it, and not tls.crt.key.
    ssl-load-extra-del-ext
{{- end }}

defaults
    mode http
    log global
    option dontlognull
    # The kernel moves the bytes of a layer from one connection to the other.
    option splice-auto
    # In one network a connection takes milliseconds. A machine that has gone must not hold up a pull for longer.
    timeout connect 2s
    timeout check 2s
    # Headers come in one packet; whoever dribbles them is let go.
    timeout http-request 10s
    # Above what clients use (BuildKit: 120 s), so that no request meets a closing connection.
    timeout http-keep-alive 150s
    # A client that takes nothing. Millpond itself lets it go after 60 s; this is for when that did not arrive.
    timeout client 3m
    # An instance that says nothing: a slow upstream, with retries. A client that cannot wait ends it sooner.
    timeout server 10m
    # Below the 30 s that containerd gives a mirror: it then goes to its next host with time to spare.
    timeout queue 20s
    # In OCI's form, as Millpond answers. Any 5xx sends a client to its next host.
    http-error status 503 content-type application/json string '{"errors":[{"code":"UNAVAILABLE","message":"no Millpond is ready","detail":null}]}'

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
    # HTTP/1.1 on purpose, with TLS too (add: ssl crt /etc/haproxy/tls.pem alpn http/1.1): large bodies gain nothing from
    # HTTP/2's frames, and over HTTP/1.1 the kernel can move them.
    bind {{ ternary "[::]:5000 v4v6" ":5000" .Values.haproxy.ipv6 }} proto h1{{ if .Values.tls.enabled }} ssl crt /run/secrets/millpond-tls/tls.crt alpn http/1.1{{ if .Values.tls.clientCaSecret }} ca-file /run/secrets/millpond-client-ca/ca.crt verify required{{ end }}{{ end }}
    option httplog
    # What Millpond answered from (hit, joined, ecr, upstream, stale) is in the log's line, and the id of its own line.
    capture response header X-Millpond len 16
    capture response header X-Request-Id len 64
    # Bytes are counted while a pull runs, not when it has ended.
    option contstats
    # Where a request comes from is ours to say, and no client's. Behind another proxy, whose word counts, this goes out.
{{- if not (or .Values.ingress.enabled .Values.httpRoute.enabled) }}
    http-request del-header X-Forwarded-For
{{- end }}
    # Millpond believes it of those in access.trusted_forwarders: name this machine there when you have rules by address.
    option forwardfor

    # txn.home is what is hashed. A blob's is its digest alone, whatever image it is asked for. A manifest, a tag list and
    # referrers have their repository's name. It has many ("Names that a client may use" in README.md), made one here:
    #   x  library/x  docker.io/library/x  docker.io/x  /docker.io/v2/library/x  library/x with ns=docker.io   ->  x
    #   ghcr.io/org/x  /ghcr.io/v2/org/x  org/x with ns=ghcr.io                                                ->  ghcr.io/org/x
    # That two repositories may become one name does no harm: they share a home.
    acl is_blob var(txn.path) -m reg /blobs/[^/]+$
    acl is_named var(txn.path) -m reg (/(manifests|blobs|referrers)/[^/]+|/tags/list)$
    acl has_ns var(txn.ns) -m len gt 0
    acl is_default var(txn.home),field(1,/),strcmp(txn.default) eq 0
    # The same as default_upstream in Millpond's configuration. It is not written in txn.home.
    http-request set-var(txn.default) str({{ default "docker.io" .Values.config.default_upstream }})
    http-request set-var(txn.path) path,url_dec,lower
    http-request set-var(txn.ns) url_param(ns),url_dec,lower
    # The ping and the catalogue belong to no repository: each client has an instance of its own for them.
    http-request set-var(txn.home) src
    # What is between /v2/ and the noun, behind the upstream that stands before /v2/, behind ns.
    http-request set-var(txn.home) var(txn.path),'regsub("(/(manifests|blobs|referrers)/[^/]+|/tags/list)$","")','regsub("^/v2/","")','regsub("^/([^/]+)/v2/","\1/")' if is_named
    http-request set-var-fmt(txn.home) %[var(txn.ns)]/%[var(txn.home)] if is_named has_ns
    # Docker Hub's aliases; an upstream that was named twice; the default one; Docker Hub's short names.
    http-request set-var(txn.home) var(txn.home),'regsub("(^|/)(index|registry-1)\.docker\.io/","\1docker.io/",g)','regsub("^([^/]+)/(\1/)+","\1/")' if is_named
    http-request set-var(txn.home) var(txn.home),'regsub("^[^/]+/","")' if is_named is_default
    http-request set-var(txn.home) var(txn.home),'regsub("^([^/]+)/(\1/)+","\1/")','regsub("^(docker\.io/)?library/","\1")' if is_named
    http-request set-var(txn.home) var(txn.path),field(-1,/) if is_blob

    default_backend instances

backend instances
    balance hash var(txn.home)
    # Consistent: one instance more or less moves only its own share. Not a word of a server's address goes into it, but
    # its id, so that a restart moves nothing.
    hash-type consistent sdbm avalanche
    # A blob has one home, whose network card is the limit of a storm. With this line, what is above 125 % of the average
    # load goes on to the next instance, which fetches the blob too: deploy/sizing.md says when that is worth it.
{{- with .Values.haproxy.hashBalanceFactor }}
    hash-balance-factor {{ . }}
{{- end }}

    # What brought no byte goes on to the next instance, within a second. After the first byte of an answer nothing is
    # tried again, and the client asks anew for what is missing. Statuses are Millpond's word: never tried again.
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response
    http-request disable-l7-retry if !{ method GET HEAD }
    # Connections are used again by anyone. One that has just been closed costs a retry, and all requests survive that.
    http-reuse always

    # Ready is the instance's own word, on its admin port: 503 from SIGTERM on, while running pulls end. New requests go
    # elsewhere, and nothing is cut off.
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host millpond
    http-check expect status 200

    http-response set-header X-Millpond-Instance %s

    # weight 100: each instance has 1,600 places on the ring. With the default of 1 it has 16, and one of four may get
    # half as much again as another. observe: three connections that fail are enough to leave an instance at once.
    # maxconn: more streams than that make none of them faster; the others wait in order.
    default-server weight 100 maxconn 5000 check port {{ include "millpond.adminPort" . }} resolvers cluster init-addr none inter 2s fastinter 500ms downinter 1s fall 2 rise 1 observe layer4 error-limit 3 on-error mark-down
    # Every HAProxy must give an instance the same id. A new instance takes the next one.
{{- $name := include "millpond.fullname" . }}
{{- $domain := printf "%s-instances.%s.svc.%s" $name .Release.Namespace .Values.clusterDomain }}
{{- $port := include "millpond.registryPort" . }}
{{- range $index := until (include "millpond.maxReplicas" . | int) }}
    server {{ $name }}-{{ $index }} {{ $name }}-{{ $index }}.{{ $domain }}:{{ $port }} id {{ add1 $index }}
{{- end }}

# For Prometheus and health checks; not for clients.
frontend operator
    bind {{ ternary "[::]:8404 v4v6" ":8404" .Values.haproxy.ipv6 }}
    option dontlog-normal
    http-request use-service prometheus-exporter if { path /metrics }
    http-request return status 200 content-type text/plain string "ok" if { path /healthz }
    http-request return status 503 content-type text/plain string "no instance is ready" if { path /readyz } { nbsrv(instances) lt 1 }
    http-request return status 200 content-type text/plain string "ok" if { path /readyz }
    http-request return status 404
