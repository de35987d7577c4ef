{{- define "tunnel.cloud.toml" -}}
grpc    = { listen = "0.0.0.0:9000", client_ca = "/etc/tunnel/tls/ca.crt" }
connect = [{ listen = "0.0.0.0:2222", tls = {{ .Values.cloud.connect.tls | quote }}, auth = {{ .Values.cloud.connect.auth | quote }} }]
tokens  = { file = "/etc/tunnel/tokens/tokens"{{ if .Values.cloud.allowDefaultToken }}, allow_default = true{{ end }} }
users   = { file = "/etc/tunnel/users/users.toml" }
peers   = { dns = "tunnel-peers.$POD_NAMESPACE.svc.cluster.local" }
drain   = { max = "{{ .Values.cloud.drainSeconds }}s" }
admin   = { listen = "0.0.0.0:6000" }
log     = { format = "json" }
{{- with .Values.cloud.moreConfig }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "tunnel.edge.toml" -}}
node  = { name = "$NODE_NAME", token_file = "/etc/tunnel/token" }
cloud = { addresses = {{ .Values.edge.addresses | toJson }}, server_name = {{ .Values.edge.serverName | quote }}, ca = "/etc/tunnel/ca/ca.crt" }
drain = { max = "{{ .Values.edge.drainSeconds }}s" }
admin = { listen = "" }
log   = { format = "json" }
{{- with .Values.edge.moreConfig }}
{{ . }}
{{- end }}
{{- with .Values.edge.targets }}
[targets.map]
{{- range $port, $target := . }}
{{ $port }} = {{ $target | quote }}
{{- end }}
{{- end }}
{{- end -}}
