package main

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const registerEvery = 200 * time.Millisecond

// register makes the Node object with its address before the kubelet looks for it.
//
// A kubelet finds its address by DNS and the default route, refuses loopback and refuses addresses
// that no interface has; none of that fits a sandbox. With an external cloud provider it keeps the
// address that somebody else wrote into the Node, and adopts a Node that exists.
func (n *node) register(ctx context.Context) error {
	configuration, err := clientcmd.BuildConfigFromFlags("", n.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(configuration)
	if err != nil {
		return err
	}
	labels := n.labels()
	labels[v1.LabelHostname] = n.name
	object := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels},
		Status: v1.NodeStatus{
			Addresses: []v1.NodeAddress{
				{Type: v1.NodeInternalIP, Address: n.nodeAddress},
				{Type: v1.NodeHostName, Address: n.name},
			},
			// A kubelet reports a node that has this condition as Ready within 100 ms, and one
			// without it at its next regular report, up to 10 s later.
			Conditions: []v1.NodeCondition{{
				Type:    v1.NodeReady,
				Status:  v1.ConditionFalse,
				Reason:  "KubeletNotReady",
				Message: "the kubelet is starting",
			}},
		},
	}
	return wait.PollUntilContextCancel(ctx, registerEvery, true, func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			klog.InfoS("Node not registered yet", "node", n.name, "err", err)
			return false, nil
		}
		return true, nil
	})
}
