// Command controlplane is every Go program of the sandbox in one binary: etcd, the Kubernetes API
// server, controller manager, scheduler and kubelet, an OCI registry, and istiod. It only composes
// upstream packages; their versions are pinned in go.mod.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	_ "time/tzdata" // CronJobs with a time zone work on machines without zone files

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	discovery "istio.io/istio/pilot/cmd/pilot-discovery/app"
	istiolog "istio.io/istio/pkg/log"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// programs maps a subcommand to what runs; each returns the exit code of the process and reads its
// own flags from os.Args, from which the subcommand has been taken out.
var programs = map[string]func() int{
	"etcd":               func() int { etcdmain.Main(os.Args); return 0 },
	"apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
	"scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubelet":            func() int { return cli.Run(newKubeletCommand()) },
	"registry":           func() int { return execute(registry.RootCmd) },
	"istiod":             istiod,
	"pki":                func() int { return execute(newPKICommand()) },
}

func main() {
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		names := make([]string, 0, len(programs))
		for name := range programs {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "usage: %s %s [flags]\n", os.Args[0], strings.Join(names, "|"))
		os.Exit(2)
	}
	program := programs[os.Args[1]]
	os.Args = append(os.Args[:1:1], os.Args[2:]...)
	os.Exit(program())
}

func istiod() int {
	istiolog.EnableKlogWithCobra()
	return execute(discovery.NewRootCommand())
}

func execute(command *cobra.Command) int {
	if err := command.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
