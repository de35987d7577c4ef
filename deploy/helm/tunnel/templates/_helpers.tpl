{{- define "tunnel.cloud.toml" -}}
grpc    = { listen = "0.0.0.0:9000", client_ca = "/etc/tunnel/tls/ca.crt" }
connect = [{ listen = "0.0.0.0:2222", tls = {{ .Values.cloud.connect.tls | quote }}, auth = {{ .Values.cloud.connect.auth | quote }} }]
tokens  = { file = "/etc/tunnel/tokens/tokens"{{ if .Values.cloud.allowDefaultToken }}, allow_default = true{{ end }} }
users   = { file = "/etc/tunnel/users/users.toml" }
peers   = { dns = "tunnel-peers.$POD_NAMESPACE.svc.cluster.local" }
registry = { kind = {{ .Values.cloud.registry.kind | quote }}{{ if eq .Values.cloud.registry.kind "hosts" }}, configmap = {{ .Values.cloud.registry.configMap | quote }}{{ end }} }
drain   = { max = "{{ .Values.cloud.drainSeconds }}s" }
admin   = { listen = "0.0.0.0:6000" }
log     = { format = "json" }
{{- if or .Values.kubernetes.tokenReview .Values.kubernetes.subjectAccessReview }}
kubernetes = { token_review = {{ .Values.kubernetes.tokenReview }}, subject_access_review = {{ .Values.kubernetes.subjectAccessReview }} }
{{- end }}
{{- with .Values.cloud.moreConfig }}
{{ . }}
{{- end }}
{{- end -}}

{{- define "tunnel.edge.toml" -}}
node  = { name = "$NODE_NAME", token_file = "{{ if eq .Values.edge.identity "pod" }}/var/run/secrets/tunnel{{ else }}/etc/tunnel{{ end }}/token" }
cloud = { addresses = {{ .Values.edge.addresses | toJson }}, server_name = {{ .Values.edge.serverName | quote }}, ca = "/etc/tunnel/ca/ca.crt" }
drain = { max = "{{ .Values.edge.drainSeconds }}s" }
admin = { listen = "", socket = "/run/tunnel/admin.sock" }
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

{{- define "tunnel.certificates" -}}
metadata: {labels: {app: tunnel-certificates}}
spec:
  serviceAccountName: tunnel-certificates
  automountServiceAccountToken: true
  restartPolicy: OnFailure
  {{- with .Values.cloud.affinity }}
  affinity: {{ toJson . }}
  {{- end }}
  {{- with .Values.cloud.nodeSelector }}
  nodeSelector: {{ toJson . }}
  {{- end }}
  {{- with .Values.cloud.tolerations }}
  tolerations: {{ toJson . }}
  {{- end }}
  securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: tunnel-cloud
    image: {{ .Values.cloud.image.repository }}:{{ .Values.cloud.image.tag | default .Chart.AppVersion }}
    imagePullPolicy: {{ .Values.cloud.image.pullPolicy }}
    args:
    - certificates
    - --secret={{ .Values.cloud.secrets.tls }}
    {{- range .Values.certificates.dnsNames }}
    - --dns-name={{ . }}
    {{- end }}
    env: [{name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}]
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
{{- end -}}
