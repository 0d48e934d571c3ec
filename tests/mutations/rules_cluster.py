"""What users of Kubernetes see of it: rules through the kubelet and the API server."""

from __future__ import annotations

from tests.mutations.model import CLUSTER, NETWORK, PODS, RUNTIME, Rule, rule

_ENGINE = f"{RUNTIME}/engine.py"
_KEEPER = f"{RUNTIME}/keeper.py"
_PROCESS = f"{RUNTIME}/process.py"
_SERVICE = f"{RUNTIME}/service.py"
_SHIM = f"{RUNTIME}/shim.py"
_TRANSLATE = f"{RUNTIME}/translate.py"
_ADDRESSES = f"{NETWORK}/addresses.py"
_SERVICES = f"{NETWORK}/services.py"

RULES: tuple[Rule, ...] = (
    rule(
        "probe-readiness",
        "A container is ready while its readiness probe passes: by HTTP, TCP or exec.",
        "probes",
        (PODS, "test_readiness_probes_decide_who_is_ready"),
        (_SERVICE, "exit_code=done.exit_code", "exit_code=0"),
    ),
    rule(
        "probe-liveness",
        "A container whose liveness probe fails, by HTTP, TCP or exec, is killed and restarted.",
        "probes",
        (PODS, "test_liveness_probes_restart_what_has_failed"),
        (_KEEPER, "return Executed(process.returncode, stdout", "return Executed(0, stdout"),
    ),
    rule(
        "probe-startup",
        "Until its startup probe passes, a container has not started and no other probe runs.",
        "probes",
        (PODS, "test_startup_probes_hold_the_other_probes_back"),
        (_SHIM, "return _exit_code(os.waitpid(child, 0)[1])", "return os.waitpid(child, 0)[1] & 0"),
    ),
    rule(
        "init-order",
        "Init containers run one after the other, and before the other containers.",
        "init containers",
        (PODS, "test_init_containers_run_one_after_the_other_before_the_others"),
        (
            _ENGINE,
            "        state=ContainerState.RUNNING,",
            "        state=ContainerState.EXITED,",
        ),
    ),
    rule(
        "init-blocks",
        "While an init container runs, the others wait.",
        "init containers",
        (PODS, "test_init_container_that_runs_holds_the_others_back"),
        (
            _TRANSLATE,
            "state=container.state.value,\n        created_at=container.created_at_ns,\n        st",
            "state=2,\n        created_at=container.created_at_ns,\n        st",
        ),
    ),
    rule(
        "init-failure",
        "An init container that fails fails a pod that is never restarted.",
        "init containers",
        (PODS, "test_init_container_that_fails_fails_a_pod_that_is_never_restarted"),
        (_SHIM, "else os.WEXITSTATUS(status)", "else 0"),
    ),
    rule(
        "restart-back-off",
        "A container that crashes is restarted with a back-off.",
        "pod lifecycle, how Pods handle problems with containers",
        (PODS, "test_container_that_crashes_is_restarted_with_back_off"),
        (_TRANSLATE, "finished_at=container.finished_at_ns", "finished_at=1"),
    ),
    rule(
        "restart-log",
        "The log of the attempt before is kept.",
        "pod lifecycle, how Pods handle problems with containers",
        (PODS, "test_log_of_the_attempt_before_is_kept"),
        (_ENGINE, "return str(Path(pod.log_directory) / container.log_path)", 'return ""'),
    ),
    rule(
        "restart-policy",
        "The restart policy looks at the exit code: OnFailure, Never.",
        "pod lifecycle, container restarts",
        (PODS, "test_restart_policy_looks_at_the_exit_code"),
        (
            _ENGINE,
            "code = ending.exit_code if ending else _KILLED",
            "code = 0 if ending else _KILLED",
        ),
    ),
    rule(
        "hook-pre-stop",
        "A preStop hook ends before the stop signal is sent.",
        "hooks",
        (PODS, "test_pre_stop_hook_ends_before_the_stop_signal"),
        (
            _ENGINE,
            "        if not args:\n",
            '        if "sh" in args:\n'
            '            return Executed(0, b"", b"")\n'
            "        if not args:\n",
        ),
    ),
    rule(
        "hook-post-start",
        "A container counts as running when its postStart hook has ended.",
        "hooks",
        (PODS, "test_container_counts_as_running_after_its_post_start_hook"),
        (
            _ENGINE,
            "        if not args:\n",
            '        return Executed(0, b"", b"")\n        if not args:\n',
        ),
    ),
    rule(
        "termination-message",
        "What a container writes to its termination message file stands in its status.",
        "termination message",
        (PODS, "test_termination_message_is_that_of_the_file"),
        (
            _SHIM,
            "    _bind(source, inside, readonly=readonly)",
            "    _bind(source, inside, readonly=True)",
        ),
    ),
    rule(
        "termination-message-log",
        "FallbackToLogsOnError takes the end of the log of a container that failed, of no other.",
        "termination message",
        (PODS, "test_termination_message_falls_back_to_the_log_of_an_error"),
        (_TRANSLATE, "        log_path=log_path,", '        log_path="",'),
    ),
    rule(
        "status-image",
        "The status names the image by its digest.",
        "images, image names",
        (PODS, "test_status_names_the_image_by_its_digest"),
        (
            _ENGINE,
            "image_ref=image.digests[0] if image.digests else image.id",
            "image_ref=image.id",
        ),
    ),
    rule(
        "end-early",
        "A pod that listens to TERM is gone long before its grace is over.",
        "pod lifecycle, termination of Pods",
        (PODS, "test_container_that_listens_ends_long_before_its_grace"),
        (_ENGINE, "        if grace_s > 0:", "        if grace_s < 0:"),
    ),
    rule(
        "end-grace",
        "A pod that does not listen is killed after its grace, not earlier and not later.",
        "pod lifecycle, termination of Pods",
        (PODS, "test_container_that_does_not_listen_is_killed_after_its_grace"),
        (_ENGINE, "_within(keeper.ended, grace_s)", "_within(keeper.ended, grace_s + 15)"),
    ),
    rule(
        "cluster-service",
        "A service is reached by name and by its cluster address, all its pods in turn.",
        "DNS",
        (CLUSTER, "test_service_is_reached_by_name_and_by_address"),
        (_SERVICES, "next(self._turn) % len(known.endpoints)", "0"),
    ),
    rule(
        "cluster-headless",
        "A headless service is its pods, at their own ports.",
        "DNS, headless services",
        (CLUSTER, "test_headless_service_is_reached_at_the_port_of_its_pods"),
        (_SERVICES, 'found["spec"].get("clusterIP") == _HEADLESS', 'found["spec"] == _HEADLESS'),
    ),
    rule(
        "cluster-pod",
        "Each pod is reached at its own address.",
        "network model",
        (CLUSTER, "test_each_pod_is_reached_at_its_own_address"),
        (
            _ADDRESSES,
            "return Loopback(node_address(name))",
            'return Loopback("127.0.0.1")',
        ),
    ),
    rule(
        "cluster-api-proxy",
        "The API server passes requests on to pods and services.",
        "API server proxy",
        (CLUSTER, "test_api_server_passes_requests_on_to_pods_and_services"),
        (
            f"{NETWORK}/egress.py",
            "asyncio.open_connection(endpoint.address, endpoint.port)",
            "asyncio.open_connection(endpoint.address, 10250)",
        ),
    ),
    rule(
        "cluster-node",
        "The API server reaches the kubelet of every node.",
        "API server proxy",
        (CLUSTER, "test_api_server_reaches_every_node"),
        (
            _ADDRESSES,
            "    if address in _SHOWN:",
            '    if address in _SHOWN and not name.endswith(".1"):',
        ),
    ),
    rule(
        "cluster-webhook",
        "A webhook in a pod, named by its service, decides what the API server admits.",
        "admission webhooks",
        (CLUSTER, "test_webhook_in_a_pod_decides_what_the_api_server_admits"),
        (_SERVICES, 'if entry["port"] == port:', 'if entry["port"] == port != 443:'),
    ),
)
