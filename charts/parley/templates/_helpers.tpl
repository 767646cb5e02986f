{{- define "parley.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* Names leave room for the longest suffix of the chart and for the operator's own suffixes. */ -}}
{{- define "parley.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "parley.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* parley.labels (dict "root" . "component" "operator") */ -}}
{{- define "parley.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/part-of: parley
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{ include "parley.selectorLabels" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "parley.selectorLabels" -}}
app.kubernetes.io/name: {{ include "parley.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- /* parley.image (dict "root" . "image" .Values.operator.image) */ -}}
{{- define "parley.image" -}}
{{- $repository := .image.repository -}}
{{- if .root.Values.imageRegistry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .root.Values.imageRegistry) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "parley.operator.serviceAccountName" -}}
{{- if .Values.operator.serviceAccount.create -}}
{{- default (printf "%s-operator" (include "parley.fullname" .)) .Values.operator.serviceAccount.name -}}
{{- else -}}
{{- required "operator.serviceAccount.name is needed when operator.serviceAccount.create is false" .Values.operator.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "parley.worker.serviceAccountName" -}}
{{- if .Values.worker.serviceAccount.create -}}
{{- default (printf "%s-worker" (include "parley.fullname" .)) .Values.worker.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.worker.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "parley.natsUrls" -}}
{{- if .Values.nats.urls -}}
{{- join "," .Values.nats.urls -}}
{{- else if .Values.nats.enabled -}}
nats://{{ include "parley.fullname" . }}-nats.{{ .Release.Namespace }}.svc:4222
{{- end -}}
{{- end -}}

{{- define "parley.localProvider.host" -}}
{{ include "parley.fullname" . }}-localprovider.{{ .Release.Namespace }}.svc
{{- end -}}

{{- /* What a pod and a container of the "restricted" Pod Security Standard need. The ids are those of the images. */ -}}
{{- define "parley.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "parley.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Scheduling fields of a pod: parley.scheduling .Values.operator */ -}}
{{- define "parley.scheduling" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Seconds of a duration such as 90s, 5m or 1h30m. */ -}}
{{- define "parley.seconds" -}}
{{- $total := 0 -}}
{{- range regexFindAll "[0-9]+(s|m|h)" . -1 -}}
{{- $number := regexFind "[0-9]+" . | int -}}
{{- if hasSuffix "h" . -}}{{- $total = add $total (mul $number 3600) -}}
{{- else if hasSuffix "m" . -}}{{- $total = add $total (mul $number 60) -}}
{{- else -}}{{- $total = add $total $number -}}{{- end -}}
{{- end -}}
{{- $total -}}
{{- end -}}

{{- /* Refuses values that the schema cannot judge. */ -}}
{{- define "parley.validate" -}}
{{- with .Values.defaultPool -}}
{{- if .create -}}
{{- $drain := include "parley.seconds" .drainTimeout | int -}}
{{- $needed := add $drain (int .drainMarginSeconds) | int -}}
{{- if gt $needed (int .terminationGracePeriodSeconds) -}}
{{- fail (printf "defaultPool.terminationGracePeriodSeconds is %d: it must be at least drainTimeout plus drainMarginSeconds, %d, or Kubernetes kills workers before their sessions have drained" (int .terminationGracePeriodSeconds) $needed) -}}
{{- end -}}
{{- if gt (int .autoscaling.min) (int .autoscaling.max) -}}
{{- fail (printf "defaultPool.autoscaling.min is %d: it must not be greater than max, %d" (int .autoscaling.min) (int .autoscaling.max)) -}}
{{- end -}}
{{- if gt (int .hostPortRange.min) (int .hostPortRange.max) -}}
{{- fail (printf "defaultPool.hostPortRange.min is %d: it must not be greater than max, %d" (int .hostPortRange.min) (int .hostPortRange.max)) -}}
{{- end -}}
{{- if gt (int .shards) (int .sessionsPerWorker) -}}
{{- fail (printf "defaultPool.shards is %d: it must not be greater than sessionsPerWorker, %d" (int .shards) (int .sessionsPerWorker)) -}}
{{- end -}}
{{- $ports := sub (int .hostPortRange.max) (int .hostPortRange.min) | add 1 | int -}}
{{- if and (eq .exposure "HostPort") (gt (int .shards) $ports) -}}
{{- fail (printf "defaultPool.hostPortRange has %d ports: a worker needs one for each of its %d shards" $ports (int .shards)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.operator.lease -}}
{{- if not (and (gt (int .durationSeconds) (int .renewDeadlineSeconds)) (gt (int .renewDeadlineSeconds) (int .retrySeconds))) -}}
{{- fail (printf "operator.lease: durationSeconds %d, renewDeadlineSeconds %d, retrySeconds %d: each must be greater than the next" (int .durationSeconds) (int .renewDeadlineSeconds) (int .retrySeconds)) -}}
{{- end -}}
{{- end -}}
{{- range .Values.operator.extraEnv -}}
{{- if has .name (list "PARLEY_OPERATOR_NAMESPACE" "PARLEY_OPERATOR_WORKER_IMAGE" "PARLEY_OPERATOR_WORKER_IMAGE_PULL_POLICY" "PARLEY_OPERATOR_LOG_LEVEL" "PARLEY_OPERATOR_NATS_URL" "PARLEY_OPERATOR_DEFAULT_POOL_FILE" "PARLEY_OPERATOR_DEFAULT_POOL_OWNER" "PARLEY_OPERATOR_WORKER_ENV" "PARLEY_OPERATOR_WATCH_NODES" "PARLEY_OPERATOR_EVENTS" "PARLEY_OPERATOR_HTTP_HOST" "PARLEY_OPERATOR_HTTP_PORT" "PARLEY_OPERATOR_POD_NAME" "PARLEY_OPERATOR_POD_IP" "PARLEY_OPERATOR_LEASE_DURATION" "PARLEY_OPERATOR_LEASE_RENEW_DEADLINE" "PARLEY_OPERATOR_LEASE_RETRY" "PARLEY_OPERATOR_SESSIONS_ADDRESS" "PARLEY_OPERATOR_SESSIONS_NAMES" "PARLEY_OPERATOR_SESSIONS_TLS_DIR" "PARLEY_OPERATOR_SESSIONS_AUDIENCES" "PARLEY_OPERATOR_SESSIONS_CONFIG_MAP") -}}
{{- fail (printf "operator.extraEnv: %s is set by the chart itself: use its value instead" .name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.nats.enabled .Values.nats.urls -}}
{{- fail "nats.enabled and nats.urls exclude each other: use the trial server or your own" -}}
{{- end -}}
{{- if and .Values.nats.storage.existingClaim .Values.nats.storage.createClaim -}}
{{- fail "nats.storage.existingClaim and nats.storage.createClaim exclude each other" -}}
{{- end -}}
{{- end -}}

{{- /* Selects worker pods of every pool: the operator labels them with their pool. */ -}}
{{- define "parley.worker.podSelector" -}}
matchExpressions:
  - {key: parley.dev/pool, operator: Exists}
{{- end -}}

{{- /* Ports of worker pods, as the operator makes them; shard N of a worker has its media and telephony port + N. */ -}}
{{- define "parley.worker.maxShards" -}}64{{- end -}}
{{- define "parley.worker.mediaPort" -}}50100{{- end -}}
{{- define "parley.worker.controlPort" -}}50052{{- end -}}
{{- define "parley.worker.telephonyPort" -}}50200{{- end -}}
{{- define "parley.worker.adminPort" -}}9090{{- end -}}

{{- /* The ports that the shards of workers have, from the first one's. */ -}}
{{- define "parley.worker.shardPorts" -}}
[{port: {{ . }}, endPort: {{ add (int .) (int (include "parley.worker.maxShards" nil)) -1 }}, protocol: TCP}]
{{- end -}}

{{- define "parley.dnsEgress" -}}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end -}}

{{- /* The session service: name of its Service and of the ConfigMap that tells clients of it. */ -}}
{{- define "parley.sessions.name" -}}
{{- printf "%s-sessions" (include "parley.fullname" .) -}}
{{- end -}}

{{- /* Names in its certificate; the first one is told to clients. */ -}}
{{- define "parley.sessions.names" -}}
{{- $host := printf "%s.%s" (include "parley.sessions.name" .) .Release.Namespace -}}
{{- $own := list (printf "%s.svc" $host) (printf "%s.svc.cluster.local" $host) $host -}}
{{- concat .Values.sessions.names $own | uniq | join "," -}}
{{- end -}}

{{- define "parley.operator.metricsPort" -}}8080{{- end -}}

{{- define "parley.defaultPool.allowedHosts" -}}
{{- $hosts := .Values.defaultPool.allowedHosts -}}
{{- if .Values.localProvider.enabled -}}
{{- $hosts = append $hosts (printf "%s:8765" (include "parley.localProvider.host" .)) -}}
{{- end -}}
{{- toYaml $hosts -}}
{{- end -}}

{{- define "parley.defaultPool.configMap" -}}
{{ include "parley.fullname" . }}-pool-{{ .Values.defaultPool.name }}
{{- end -}}

{{- define "parley.defaultPool.manifest" -}}
apiVersion: parley.dev/v1alpha1
kind: VoiceWorkerPool
metadata:
  name: {{ .Values.defaultPool.name }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "parley.labels" (dict "root" . "component" "worker") | nindent 4 }}
spec:
  {{- with .Values.defaultPool }}
  {{- if .autoscaling.enabled }}
  autoscaling:
    min: {{ .autoscaling.min }}
    max: {{ .autoscaling.max }}
    bufferSessions: {{ .autoscaling.bufferSessions }}
    stabilization: {{ .autoscaling.stabilization }}
    {{- with .autoscaling.maxScaleUpRate }}
    maxScaleUpRate: {{ . }}
    {{- end }}
  {{- else if not (kindIs "invalid" .replicas) }}
  replicas: {{ .replicas }}
  {{- end }}
  {{- with .recycle }}
  recycle: {{- toYaml . | nindent 4 }}
  {{- end }}
  sessionsPerWorker: {{ .sessionsPerWorker }}
  {{- with .shards }}
  shards: {{ . }}
  {{- end }}
  {{- with .allowedNamespaces }}
  allowedNamespaces: {{- toYaml . | nindent 4 }}
  {{- end }}
  provider:
    allowedHosts: {{- include "parley.defaultPool.allowedHosts" $ | nindent 6 }}
  scenarios: {{- toYaml .scenarios | nindent 4 }}
  tools: {{- toYaml .tools | nindent 4 }}
  media: {{- toYaml .media | nindent 4 }}
  recordings: {{- toYaml .recordings | nindent 4 }}
  exposure:
    type: {{ .exposure }}
    {{- if eq .exposure "HostPort" }}
    hostPortRange: {min: {{ .hostPortRange.min }}, max: {{ .hostPortRange.max }}}
    {{- end }}
  placement: {{- toYaml .placement | nindent 4 }}
  {{- with .quotas }}
  quotas: {{- toYaml . | nindent 4 }}
  {{- end }}
  updateStrategy:
    maxSurge: {{ .maxSurge }}
    drainTimeout: {{ .drainTimeout }}
  podTemplate:
    {{- if or .podLabels .podAnnotations }}
    metadata:
      {{- with .podLabels }}
      labels: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .podAnnotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
    spec:
      serviceAccountName: {{ include "parley.worker.serviceAccountName" $ }}
      terminationGracePeriodSeconds: {{ .terminationGracePeriodSeconds }}
      {{- with $.Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "parley.scheduling" . }}
      {{- . | nindent 6 }}
      {{- end }}
      containers:
        - name: worker
          resources: {{- toYaml .resources | nindent 12 }}
          {{- with .volumeMounts }}
          volumeMounts: {{- toYaml . | nindent 12 }}
          {{- end }}
      {{- with .volumes }}
      volumes: {{- toYaml . | nindent 8 }}
      {{- end }}
  {{- end }}
{{- end -}}

{{- /* Bytes of a size such as 256Mi or 1Gi. */ -}}
{{- define "parley.bytes" -}}
{{- $unit := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (regexFind "[0-9]+" . | int64) (get $unit (regexFind "[KMGT]i" .)) -}}
{{- end -}}

{{- /* Variables of every worker. The trial NATS holds two streams, which share its storage with room to spare. */ -}}
{{- define "parley.workerEnv" -}}
{{- $env := .Values.worker.extraEnv -}}
{{- $limit := "PARLEY_WORKER_NATS_MAX_BYTES" -}}
{{- $given := false -}}
{{- range $env -}}{{- if eq .name $limit -}}{{- $given = true -}}{{- end -}}{{- end -}}
{{- if and .Values.nats.enabled (not $given) -}}
{{- $bytes := div (mul (include "parley.bytes" .Values.nats.storage.size | int64) 2) 5 -}}
{{- $env = append $env (dict "name" $limit "value" (toString $bytes)) -}}
{{- end -}}
{{- toJson $env -}}
{{- end -}}
