package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	noop "go.opentelemetry.io/otel/trace/noop"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/record"
	logsapi "k8s.io/component-base/logs/api/v1"
	remote "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"
	kubeletapp "k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	"k8s.io/kubernetes/pkg/util/oom"
	"k8s.io/kubernetes/pkg/volume"
	"k8s.io/kubernetes/pkg/volume/configmap"
	"k8s.io/kubernetes/pkg/volume/downwardapi"
	"k8s.io/kubernetes/pkg/volume/emptydir"
	"k8s.io/kubernetes/pkg/volume/hostpath"
	"k8s.io/kubernetes/pkg/volume/local"
	"k8s.io/kubernetes/pkg/volume/projected"
	"k8s.io/kubernetes/pkg/volume/secret"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/mount-utils"
)

const gpuResource = "nvidia.com/gpu"

// node is what the flags of one kubelet say.
type node struct {
	name, zone, address, nodeAddress    string
	kubeconfig, cri, rootDir, podLogDir string
	tlsCert, tlsKey, clientCA           string
	port, healthzPort, gpus             int32
}

func newKubeletCommand() *cobra.Command {
	n := &node{}
	command := &cobra.Command{
		Use:   "kubelet",
		Short: "a real kubelet over a container runtime that needs no containers",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return n.run(genericapiserver.SetupSignalContext())
		},
	}
	flags := command.Flags()
	flags.StringVar(&n.name, "node-name", "", "name of the Node object")
	flags.StringVar(&n.zone, "zone", "", "value of the label topology.kubernetes.io/zone")
	flags.StringVar(&n.address, "address", "127.0.0.1", "address to listen on")
	flags.StringVar(&n.nodeAddress, "node-address", "", "InternalIP of the Node object")
	flags.StringVar(&n.kubeconfig, "kubeconfig", "", "credentials of this node")
	flags.StringVar(&n.cri, "cri", "", "Unix socket of the container runtime")
	flags.StringVar(&n.rootDir, "root-dir", "", "folder of volumes and checkpoints")
	flags.StringVar(&n.podLogDir, "pod-log-dir", "", "folder of container logs")
	flags.StringVar(&n.tlsCert, "tls-cert", "", "serving certificate")
	flags.StringVar(&n.tlsKey, "tls-key", "", "key of the serving certificate")
	flags.StringVar(&n.clientCA, "client-ca", "", "who is signed by this may call the kubelet")
	flags.Int32Var(&n.port, "port", 0, "port of the kubelet's API")
	flags.Int32Var(&n.healthzPort, "healthz-port", 0, "port of /healthz, on 127.0.0.1")
	flags.Int32Var(&n.gpus, "gpus", 0, "how many "+gpuResource+" the node says it has")
	for _, name := range []string{"node-name", "kubeconfig", "cri", "root-dir", "pod-log-dir", "port"} {
		if err := command.MarkFlagRequired(name); err != nil {
			panic(err) // a flag named here and not defined above
		}
	}
	return command
}

func (n *node) run(ctx context.Context) error {
	kernelLog, err := prepareKernelLog()
	if err != nil {
		return err
	}
	if err := n.register(ctx); err != nil {
		return fmt.Errorf("register node %s: %w", n.name, err)
	}
	server, err := n.server()
	if err != nil {
		return err
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(server.FeatureGates); err != nil {
		return err
	}
	if err := logsapi.ValidateAndApply(&server.Logging, utilfeature.DefaultFeatureGate); err != nil {
		return err
	}
	dependencies, err := n.dependencies(ctx, server)
	if err != nil {
		return err
	}
	if !kernelLog {
		// The kubelet refuses to start without the kernel log unless its recorder is a fake; then it
		// reports no events, everything else works.
		klog.Warning("no kernel log and no user namespace here: this kubelet reports no events")
		dependencies.Recorder = &record.FakeRecorder{}
	}
	// Upstream writes links of its own below /var/log; here everything stays in the sandbox.
	kubelet.ContainerLogsDir = filepath.Join(n.rootDir, "container-logs")
	return kubeletapp.Run(ctx, server, dependencies, utilfeature.DefaultFeatureGate)
}

// server returns upstream's defaults with what differs where there are no containers.
func (n *node) server() (*options.KubeletServer, error) {
	flags := options.NewKubeletFlags()
	flags.KubeConfig = n.kubeconfig
	flags.HostnameOverride = n.name
	flags.RootDirectory = n.rootDir
	flags.CertDirectory = filepath.Join(n.rootDir, "pki")
	// The Node is registered with its address by this program, as a cloud's controller would do it.
	flags.CloudProvider = "external"
	flags.NodeLabels = n.labels()
	// Upstream counts a container that is created and not yet started among the dead: on a slow machine
	// its collection takes the log of the attempt before away while the next one starts.
	flags.MinimumGCAge.Duration = time.Minute

	c, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, err
	}
	c.FeatureGates = map[string]bool{"KubeletInUserNamespace": true}
	c.ContainerRuntimeEndpoint = "unix://" + n.cri
	c.ImageServiceEndpoint = c.ContainerRuntimeEndpoint
	c.Address, c.Port = n.address, n.port
	c.HealthzBindAddress, c.HealthzPort = "127.0.0.1", n.healthzPort
	c.TLSCertFile, c.TLSPrivateKeyFile = n.tlsCert, n.tlsKey
	c.Authentication.X509.ClientCAFile = n.clientCA
	c.Authentication.Anonymous.Enabled = false
	c.Authentication.Webhook.Enabled = false
	c.Authorization.Mode = config.KubeletAuthorizationModeAlwaysAllow // only the API server has such a certificate
	c.EnableProfilingHandler, c.EnableSystemLogHandler = false, false
	c.PodLogsDir = n.podLogDir
	c.VolumePluginDir = filepath.Join(n.rootDir, "flex")
	c.ResolverConfig = ""
	// The host resolves names; without an address here every pod would get a warning about it.
	c.ClusterDNS, c.ClusterDomain = []string{"10.96.0.10"}, "cluster.local"
	c.MaxOpenFiles = 8192
	// No cgroups: the sandbox does not enforce limits, and says so.
	c.CgroupsPerQOS, c.EnforceNodeAllocatable, c.CPUCFSQuota = false, nil, false
	c.FailSwapOn, c.FailCgroupV1 = false, false
	c.EnableControllerAttachDetach = false
	c.MakeIPTablesUtilChains = false
	// The disk belongs to its owner: a full one must not evict pods or delete images of a sandbox.
	c.EvictionHard = map[string]string{}
	c.ImageGCHighThresholdPercent = 100
	c.SerializeImagePulls = false
	c.RegistryPullQPS = 0
	return &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *c}, nil
}

func (n *node) dependencies(ctx context.Context, server *options.KubeletServer) (*kubelet.Dependencies, error) {
	tls, err := kubeletapp.InitializeTLS(ctx, &server.KubeletFlags, &server.KubeletConfiguration)
	if err != nil {
		return nil, err
	}
	tracer := noop.NewTracerProvider()
	timeout := server.RuntimeRequestTimeout.Duration
	runtime, err := remote.NewRemoteRuntimeService(ctx, server.ContainerRuntimeEndpoint, timeout, tracer, false)
	if err != nil {
		return nil, err
	}
	images, err := remote.NewRemoteImageService(ctx, server.ImageServiceEndpoint, timeout, tracer, false)
	if err != nil {
		return nil, err
	}
	devices := v1.ResourceList{}
	if n.gpus > 0 {
		devices[gpuResource] = *resource.NewQuantity(int64(n.gpus), resource.DecimalSI)
	}
	mounter := &mount.FakeMounter{}
	return &kubelet.Dependencies{
		RemoteRuntimeService: runtime,
		RemoteImageService:   images,
		CAdvisorInterface:    &machine{root: n.rootDir},
		ContainerManager: &containerManager{
			ContainerManager: cm.NewStubContainerManagerWithDevicePluginResource(devices),
			root:             n.rootDir,
		},
		OSInterface:    hostOS{},
		HostUtil:       hostUtil{hostutil.NewHostUtil()},
		Subpather:      newSubpaths(mounter),
		Mounter:        mounter,
		OOMAdjuster:    oom.NewFakeOOMAdjuster(),
		TLSOptions:     tls,
		TracerProvider: tracer,
		VolumePlugins:  volumePlugins(),
	}, nil
}

func volumePlugins() []volume.VolumePlugin {
	plugins := emptydir.ProbeVolumePlugins()
	plugins = append(plugins, configmap.ProbeVolumePlugins()...)
	plugins = append(plugins, secret.ProbeVolumePlugins()...)
	plugins = append(plugins, projected.ProbeVolumePlugins()...)
	plugins = append(plugins, downwardapi.ProbeVolumePlugins()...)
	plugins = append(plugins, hostpath.ProbeVolumePlugins(volume.VolumeConfig{})...)
	return append(plugins, local.ProbeVolumePlugins()...)
}

func (n *node) labels() map[string]string {
	labels := map[string]string{}
	if n.zone != "" {
		labels[v1.LabelTopologyZone] = n.zone
	}
	if n.gpus > 0 {
		labels["nvidia.com/gpu.product"] = "simulated"
	}
	return labels
}
