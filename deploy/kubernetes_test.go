package deploy

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	base    = "kubernetes/base"
	overlay = "kubernetes/overlays/platform"
)

// tree is what `kustomize build` makes of a folder.
type tree struct {
	deployment *appsv1.Deployment
	policy     *networkingv1.NetworkPolicy
	budget     *policyv1.PodDisruptionBudget
	account    *corev1.ServiceAccount
	services   map[string]*corev1.Service
}

// newDecoder is strict: a field that the API does not know, or one that stands
// twice, is an error.
func newDecoder(t *testing.T) runtime.Decoder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

func build(t *testing.T, folder string) tree {
	t.Helper()
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		t.Fatalf("kustomize build %s: %v", folder, err)
	}
	text, err := made.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	decoder := newDecoder(t)
	result := tree{services: map[string]*corev1.Service{}}
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text)))
	defer documents.Close()
	buffer := make([]byte, 1<<20)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return result
		}
		if err != nil {
			t.Fatal(err)
		}
		object, err := runtime.Decode(decoder, buffer[:n])
		if err != nil {
			t.Errorf("%s: %v in\n%s", folder, err, buffer[:n])
			continue
		}
		switch o := object.(type) {
		case *appsv1.Deployment:
			result.deployment = o
		case *networkingv1.NetworkPolicy:
			result.policy = o
		case *policyv1.PodDisruptionBudget:
			result.budget = o
		case *corev1.ServiceAccount:
			result.account = o
		case *corev1.Service:
			result.services[o.Name] = o
		default:
			t.Errorf("%s makes a %T, of which this test knows nothing", folder, o)
		}
	}
}

func (tr tree) pod() corev1.PodSpec         { return tr.deployment.Spec.Template.Spec }
func (tr tree) container() corev1.Container { return tr.pod().Containers[0] }

func forBoth(t *testing.T, check func(t *testing.T, tr tree)) {
	for _, folder := range []string{base, overlay} {
		t.Run(folder, func(t *testing.T) {
			t.Parallel()
			check(t, build(t, folder))
		})
	}
}

// What selects pods selects the worker's, and no others of the namespace.
func TestSelectorsMeetThePods(t *testing.T) {
	t.Parallel()
	forBoth(t, func(t *testing.T, tr tree) {
		pod := labels.Set(tr.deployment.Spec.Template.Labels)
		selectors := map[string]*metav1.LabelSelector{
			"the deployment": tr.deployment.Spec.Selector, "the budget": tr.budget.Spec.Selector, "the policy": &tr.policy.Spec.PodSelector,
			"the spread": tr.pod().TopologySpreadConstraints[0].LabelSelector,
		}
		for what, selector := range selectors {
			s, err := metav1.LabelSelectorAsSelector(selector)
			if err != nil || s.Empty() || !s.Matches(pod) || s.Matches(labels.Set{"app.kubernetes.io/component": "ingest"}) {
				t.Errorf("%s selects %q, %v; the pods are %v", what, s, err, pod)
			}
		}
		if tr.pod().ServiceAccountName != tr.account.Name {
			t.Errorf("service account %q, want %q", tr.pod().ServiceAccountName, tr.account.Name)
		}
		if *tr.deployment.Spec.Replicas < 2 || tr.budget.Spec.MinAvailable.IntValue() >= int(*tr.deployment.Spec.Replicas) {
			t.Errorf("%d replicas, of which %s must stay: no node can be drained", *tr.deployment.Spec.Replicas, tr.budget.Spec.MinAvailable)
		}
	})
}

func TestThePodIsLockedDown(t *testing.T) {
	t.Parallel()
	forBoth(t, func(t *testing.T, tr tree) {
		pod, c := tr.pod(), tr.container()
		for what, ok := range map[string]bool{
			"runs as root":                   *pod.SecurityContext.RunAsNonRoot && *pod.SecurityContext.RunAsUser == user(t),
			"has no seccomp profile":         pod.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
			"mounts a token":                 !*pod.AutomountServiceAccountToken && !*tr.account.AutomountServiceAccountToken,
			"gets variables of services":     !*pod.EnableServiceLinks,
			"may gain privileges":            !*c.SecurityContext.AllowPrivilegeEscalation,
			"has a writable root":            *c.SecurityContext.ReadOnlyRootFilesystem,
			"keeps capabilities":             slices.Equal(c.SecurityContext.Capabilities.Drop, []corev1.Capability{"ALL"}) && len(c.SecurityContext.Capabilities.Add) == 0,
			"has no memory limit":            c.Resources.Limits.Memory().Value() > c.Resources.Requests.Memory().Value(),
			"asks for no CPU":                !c.Resources.Requests.Cpu().IsZero(),
			"is killed before it has stored": *pod.TerminationGracePeriodSeconds >= 10,
		} {
			if !ok {
				t.Errorf("the pod %s", what)
			}
		}
		for _, variable := range c.Env {
			if strings.Contains(variable.Value, "@") || strings.Contains(variable.Name, "PASS") && variable.Value != "" {
				t.Errorf("%s holds a secret", variable.Name)
			}
		}
	})
}

// user is the one that the image runs as.
func user(t *testing.T) int64 {
	t.Helper()
	match := regexp.MustCompile(`(?m)^USER (\d+):`).FindStringSubmatch(read(t, "../Dockerfile"))
	n, err := strconv.ParseInt(match[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.FromSlash(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// The kubelet evicts a pod whose logs and emptyDir volumes on the disk take more than the limit.
func TestTheDiskHoldsTheVolumesAndTheLogs(t *testing.T) {
	t.Parallel()
	logs := resource.MustParse("50Mi") // the kubelet's containerLogMaxSize times containerLogMaxFiles
	forBoth(t, func(t *testing.T, tr tree) {
		resources := tr.container().Resources
		memory, disk := resource.Quantity{}, logs.DeepCopy()
		for _, v := range tr.pod().Volumes {
			switch {
			case v.EmptyDir == nil:
			case v.EmptyDir.SizeLimit == nil:
				t.Errorf("the volume %s may fill the node", v.Name)
			case v.EmptyDir.Medium == corev1.StorageMediumMemory:
				memory.Add(*v.EmptyDir.SizeLimit)
			default:
				disk.Add(*v.EmptyDir.SizeLimit)
			}
		}
		if limit := resources.Limits.StorageEphemeral(); limit.Cmp(disk) < 0 {
			t.Errorf("the limit of the disk is %s, and logs and volumes may take %s", limit, &disk)
		}
		if request := resources.Requests.StorageEphemeral(); request.Cmp(logs) < 0 {
			t.Errorf("%s of the disk are requested, and logs take %s", request, &logs)
		}
		memory.Add(*resources.Requests.Memory())
		if limit := resources.Limits.Memory(); limit.Cmp(memory) < 0 {
			t.Errorf("the limit of the memory is %s, and the worker and volumes may take %s", limit, &memory)
		}
	})
}

// Every volume is mounted, every mount has its volume, and the paths that the
// settings name are on one.
func TestVolumesMeetTheSettings(t *testing.T) {
	t.Parallel()
	forBoth(t, func(t *testing.T, tr tree) {
		c := tr.container()
		mounts := map[string]corev1.VolumeMount{}
		for _, m := range c.VolumeMounts {
			mounts[m.Name] = m
		}
		for _, v := range tr.pod().Volumes {
			if _, mounted := mounts[v.Name]; !mounted {
				t.Errorf("the volume %s is not mounted", v.Name)
			}
			delete(mounts, v.Name)
		}
		if len(mounts) > 0 {
			t.Errorf("mounts without a volume: %v", mounts)
		}
		env := environment(c)
		for _, name := range []string{"DATABASE_URL_FILE", "STATE_DIR", "SPOOL_DIR"} {
			on := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
				return env[name] == m.MountPath || strings.HasPrefix(env[name], m.MountPath+"/")
			})
			if !on {
				t.Errorf("%s=%s is on no volume", name, env[name])
			}
		}
		secret := tr.pod().Volumes[0].Secret
		if secret == nil || filepath.Base(env["DATABASE_URL_FILE"]) != secret.Items[0].Path || *secret.DefaultMode != 0o440 {
			t.Errorf("the secret %+v is not at %s", secret, env["DATABASE_URL_FILE"])
		}
	})
	if name := build(t, overlay).pod().Volumes[0].Secret.SecretName; name != "pulse-db-secret" {
		t.Errorf("the overlay takes the secret %s", name)
	}
}

func environment(c corev1.Container) map[string]string {
	env := map[string]string{}
	for _, variable := range c.Env {
		env[variable.Name] = variable.Value
	}
	return env
}

// Each variable is a setting, and set once.
func TestVariablesAreSettings(t *testing.T) {
	t.Parallel()
	table := read(t, "../docs/configuration.md")
	forBoth(t, func(t *testing.T, tr tree) {
		seen := map[string]bool{}
		for _, variable := range tr.container().Env {
			if !strings.Contains(table, "`"+variable.Name+"`") {
				t.Errorf("docs/configuration.md has no setting %s", variable.Name)
			}
			if seen[variable.Name] {
				t.Errorf("%s is set twice", variable.Name)
			}
			seen[variable.Name] = true
		}
	})
	for _, name := range regexp.MustCompile(`# - name: ([A-Z_]+)`).FindAllStringSubmatch(read(t, overlay+"/deployment.yaml"), -1) {
		if !strings.Contains(table, "`"+name[1]+"`") {
			t.Errorf("docs/configuration.md has no setting %s", name[1])
		}
	}
}

// The probes ask what is there: the binary of the image, or the port that is
// listened at.
func TestProbesAskWhatIsThere(t *testing.T) {
	t.Parallel()
	image := regexp.MustCompile(`(?m)^ENTRYPOINT \["(/ops-worker)"\]`).FindStringSubmatch(read(t, "../Dockerfile"))[1]
	c := build(t, base).container()
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe} {
		if probe.HTTPGet != nil || !slices.Equal(probe.Exec.Command, []string{image, "healthcheck"}) {
			t.Errorf("the base probes %+v", probe)
		}
	}
	if c.ReadinessProbe != nil || len(c.Ports) > 0 || environment(c)["HTTP_ADDR"] != "" {
		t.Error("the base listens, or is asked whether it is ready")
	}

	tr := build(t, overlay)
	c = tr.container()
	port := c.Ports[0]
	if environment(c)["HTTP_ADDR"] != ":"+strconv.Itoa(int(port.ContainerPort)) {
		t.Errorf("it listens at %s, and the container's port is %d", environment(c)["HTTP_ADDR"], port.ContainerPort)
	}
	for path, probe := range map[string]*corev1.Probe{"/health": c.LivenessProbe, "/ready": c.ReadinessProbe} {
		if probe.Exec != nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.StrVal != port.Name {
			t.Errorf("%s is asked by %+v", path, probe)
		}
	}
	if c.StartupProbe.Exec != nil || c.StartupProbe.HTTPGet.Path != "/health" {
		t.Errorf("the start is asked by %+v", c.StartupProbe)
	}
	if scrape := tr.deployment.Spec.Template.Annotations["prometheus.io/port"]; scrape != strconv.Itoa(int(port.ContainerPort)) {
		t.Errorf("Prometheus is sent to port %s", scrape)
	}
	if in := tr.policy.Spec.Ingress; len(in) != 1 || in[0].Ports[0].Port.IntVal != port.ContainerPort {
		t.Errorf("the policy lets in %+v", in)
	}
	if in := build(t, base).policy.Spec.Ingress; len(in) != 0 {
		t.Errorf("the base's policy lets in %+v", in)
	}
}

// A URL of the overlay leads to a service of the overlay, and past its policy.
func TestServicesMeetTheURLs(t *testing.T) {
	t.Parallel()
	tr := build(t, overlay)
	out := map[string]bool{}
	for _, rule := range tr.policy.Spec.Egress {
		for _, port := range rule.Ports {
			out[port.Port.String()+"/"+string(*port.Protocol)] = true
		}
	}
	for _, needed := range []string{"53/UDP", "53/TCP", "5432/TCP", "1883/TCP"} {
		if !out[needed] {
			t.Errorf("the policy keeps it from %s", needed)
		}
	}
	used := map[string]bool{}
	for name, value := range environment(tr.container()) {
		if !strings.HasSuffix(name, "_URL") {
			continue
		}
		u, err := url.Parse(value)
		if err != nil {
			t.Fatal(err)
		}
		service := tr.services[u.Hostname()]
		if service == nil {
			t.Errorf("%s leads to %s, which no service is called", name, u.Hostname())
			continue
		}
		used[service.Name] = true
		if service.Spec.ClusterIP != corev1.ClusterIPNone {
			t.Errorf("%s has one address for all pods", service.Name)
		}
		if strconv.Itoa(int(service.Spec.Ports[0].Port)) != u.Port() || !out[u.Port()+"/TCP"] {
			t.Errorf("%s leads to port %s; the service has %d, and the policy lets out %v", name, u.Port(), service.Spec.Ports[0].Port, out)
		}
		component := strings.ToLower(strings.TrimSuffix(name, "_HEALTH_URL"))
		if service.Spec.Selector["app.kubernetes.io/component"] != component {
			t.Errorf("%s selects %v, want the component %s", service.Name, service.Spec.Selector, component)
		}
	}
	for name := range tr.services {
		if !used[name] {
			t.Errorf("nothing uses the service %s", name)
		}
	}
}

// The overlay with all its comments uncommented is one too, and the policy lets out what
// its list names.
func TestTheCommentsOfTheOverlay(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("kubernetes")); err != nil {
		t.Fatal(err)
	}
	for file, commented := range map[string]string{
		"deployment.yaml":    `(?m)^( +)# (- name: |  value: |  +[a-z-]+=)`,
		"kustomization.yaml": `(?m)^(  )# (- target:|  )`,
	} {
		file = filepath.Join(folder, "overlays/platform", file)
		text := regexp.MustCompile(commented).ReplaceAllString(read(t, file), "$1$2")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tr := build(t, filepath.Join(folder, "overlays/platform"))
	out := map[string]bool{}
	for _, rule := range tr.policy.Spec.Egress {
		for _, port := range rule.Ports {
			out[port.Port.String()] = true
		}
	}
	list := environment(tr.container())["HEALTH_SERVICES"]
	if n := strings.Count(list, "="); n != 8 {
		t.Errorf("%d endpoints in %q", n, list)
	}
	for entry := range strings.SplitSeq(list, ",") {
		_, address, _ := strings.Cut(entry, "=")
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if !out[u.Port()] {
			t.Errorf("the policy keeps it from %s", address)
		}
	}
}

// The guide's own object is one, and its commands name what the overlay makes.
func TestTheGuideMeetsTheOverlay(t *testing.T) {
	t.Parallel()
	guide := read(t, "../docs/kubernetes.md")
	_, manifest, _ := strings.Cut(guide, "<<'EOF'\n")
	manifest, _, _ = strings.Cut(manifest, "EOF\n")
	object, err := runtime.Decode(newDecoder(t), []byte(manifest))
	pod, ok := object.(*corev1.Pod)
	if err != nil || !ok {
		t.Fatalf("%T, %v", object, err)
	}
	tr := build(t, overlay)
	if from := pod.Spec.Containers[0].Env[0].ValueFrom.SecretKeyRef; from.Name != tr.pod().Volumes[0].Secret.SecretName || from.Key != tr.pod().Volumes[0].Secret.Items[0].Key {
		t.Errorf("the guide's doctor takes %s of %s", from.Key, from.Name)
	}
	for _, match := range regexp.MustCompile(`deployment/([a-z-]+)`).FindAllStringSubmatch(guide, -1) {
		if name := match[1]; name != tr.deployment.Name && name != "pulse-ops-worker" {
			t.Errorf("the guide names the deployment %s", name)
		}
	}
	for _, match := range regexp.MustCompile(`--selector (\S+)`).FindAllStringSubmatch(guide, -1) {
		if selector, err := labels.Parse(match[1]); err != nil || !selector.Matches(labels.Set(tr.deployment.Spec.Template.Labels)) {
			t.Errorf("the guide selects %s, %v", match[1], err)
		}
	}
	for _, match := range regexp.MustCompile(`deploy/kubernetes/[a-z/]+|overlays/platform/[a-z.]+`).FindAllString(guide, -1) {
		file := strings.TrimPrefix(strings.TrimPrefix(match, "deploy/"), "kubernetes/")
		if _, err := os.Stat(filepath.Join("kubernetes", file)); err != nil {
			t.Errorf("the guide names %s: %v", match, err)
		}
	}
}
