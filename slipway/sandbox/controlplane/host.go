package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/kubernetes/pkg/kubelet/cm"
	kubecontainer "k8s.io/kubernetes/pkg/kubelet/container"
	"k8s.io/kubernetes/pkg/volume/util/hostutil"
	"k8s.io/kubernetes/pkg/volume/util/subpath"
	"k8s.io/mount-utils"
)

const (
	legacyLogs       = "/var/log/containers"
	namespaceMarker  = "SLIPWAY_KUBELET_IN_USER_NAMESPACE"
	kernelLogMessage = "/dev/kmsg"
)

// prepareKernelLog sees to it that the kubelet's out-of-memory watcher does not stop the kubelet.
//
// The watcher opens the kernel log, which needs root; the kubelet goes on without it only inside a
// user namespace. So an ordinary user's kubelet starts itself again in one. It returns false where
// neither is possible.
func prepareKernelLog() (bool, error) {
	file, err := os.Open(kernelLogMessage)
	if err == nil {
		return true, file.Close()
	}
	if os.Getenv(namespaceMarker) != "" {
		return true, nil
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return false, nil
	}
	arguments := []string{unshare, "--user", "--map-current-user"}
	if exec.Command(unshare, append(arguments[1:], "true")...).Run() != nil {
		return false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	arguments = append(arguments, self, "kubelet")
	arguments = append(arguments, os.Args[1:]...)
	return false, syscall.Exec(unshare, arguments, append(os.Environ(), namespaceMarker+"=1"))
}

// hostOS is the real system, without upstream's links below /var/log/containers.
type hostOS struct{ kubecontainer.RealOS }

func (h hostOS) Symlink(target, link string) error {
	if strings.HasPrefix(link, legacyLogs) {
		return nil
	}
	return h.RealOS.Symlink(target, link)
}

// hostUtil is the real one, except that it does not bind-mount the kubelet's folder onto itself.
type hostUtil struct{ hostutil.HostUtils }

func (hostUtil) MakeRShared(string) error { return nil }

// subpaths resolves a volume's subPath without the bind mount that upstream makes: containers are
// processes of the same user, so a mount would protect nothing here.
type subpaths struct{ subpath.Interface }

func newSubpaths(mounter mount.Interface) subpaths { return subpaths{subpath.New(mounter)} }

func (subpaths) CleanSubPaths(string, string) error { return nil }

func (subpaths) PrepareSafeSubpath(s subpath.Subpath) (string, func(), error) {
	volume, err := filepath.EvalSymlinks(s.VolumePath)
	if err != nil {
		return "", nil, err
	}
	path, err := filepath.EvalSymlinks(s.Path)
	if err != nil {
		return "", nil, err
	}
	if !mount.PathWithinBase(path, volume) {
		return "", nil, fmt.Errorf("subpath %q is outside of its volume %q", path, volume)
	}
	return path, func() {}, nil
}

// containerManager is upstream's stub with the size of the real disk, so that pods which ask for
// ephemeral-storage can be scheduled, and without an error for every look at a pod's cgroup.
type containerManager struct {
	cm.ContainerManager
	root string
}

func (c *containerManager) GetCapacity(isolation bool) v1.ResourceList {
	if !isolation {
		return v1.ResourceList{}
	}
	disk, err := diskOf(c.root)
	if err != nil {
		return v1.ResourceList{}
	}
	size := resource.NewQuantity(int64(disk.Capacity), resource.BinarySI)
	return v1.ResourceList{v1.ResourceEphemeralStorage: *size}
}

func (c *containerManager) NewPodContainerManager() cm.PodContainerManager {
	return podCgroups{c.ContainerManager.NewPodContainerManager()}
}

// podCgroups says that no pod has a cgroup; upstream's stub says that it cannot tell.
type podCgroups struct{ cm.PodContainerManager }

func (podCgroups) GetPodCgroupConfig(*v1.Pod, v1.ResourceName) (*cm.ResourceConfig, error) {
	return nil, nil
}
