"""What a container finds when it starts: command, environment, folders, mounts, namespaces."""

from __future__ import annotations

from tests.mutations.model import CONTAINERS, LIFECYCLE, RUNTIME, Rule, rule

_ENGINE = f"{RUNTIME}/engine.py"
_PROCESS = f"{RUNTIME}/process.py"
_SERVICE = f"{RUNTIME}/service.py"
_SHIM = f"{RUNTIME}/shim.py"
_TRANSLATE = f"{RUNTIME}/translate.py"

RULES: tuple[Rule, ...] = (
    rule(
        "container-command",
        "A container's command replaces entrypoint and cmd of its image; its args alone replace "
        "the image's cmd.",
        "command and arguments",
        (CONTAINERS, "test_command_and_args_replace_entrypoint_and_cmd_as_kubernetes_says"),
        (_PROCESS, "(container.args or image.cmd)", "image.cmd"),
    ),
    rule(
        "container-environment",
        "Variables of the image are defaults; those of the container win.",
        "image config, Env",
        (CONTAINERS, "test_container_environment_wins_over_image_and_host_does_not_leak"),
        (
            _PROCESS,
            "dict(_split(image.env)) | dict(container.env)",
            "dict(container.env) | dict(_split(image.env))",
        ),
    ),
    rule(
        "container-environment-closed",
        "A container inherits no variable of the runtime.",
        "runtime-spec, process.env",
        (CONTAINERS, "test_container_environment_wins_over_image_and_host_does_not_leak"),
        (
            _SHIM,
            "os.execvpe(args[0], args, env)",
            "os.execvpe(args[0], args, {**os.environ, **env})",
        ),
    ),
    rule(
        "container-api-address",
        "KUBERNETES_SERVICE_HOST and PORT lead to the API server.",
        "API access from a pod",
        (CONTAINERS, "test_container_environment_wins_over_image_and_host_does_not_leak"),
        (_PROCESS, "in known.items() if name in env}", "in known.items() if name not in env}"),
    ),
    rule(
        "container-working-directory",
        "The working directory is the container's, else the image's, and is made when missing.",
        "runtime-spec, process.cwd",
        (CONTAINERS, "test_working_directory_is_made_and_entered"),
        (_PROCESS, "cwd=container.working_dir or image", "cwd=image"),
    ),
    rule(
        "mount-readonly",
        "A mount appears at its own path, and takes no writes when it is readonly.",
        "api.proto, Mount.readonly",
        (CONTAINERS, "test_mounts_appear_at_their_own_paths_readonly_where_asked"),
        (
            _SHIM,
            "_bind_at(host, inside, readonly=readonly)",
            "_bind_at(host, inside, readonly=False)",
        ),
    ),
    rule(
        "mount-order",
        "A mount below another one is seen, whatever their order in the request.",
        "volumes",
        (LIFECYCLE, "test_mount_below_another_one_is_seen_whatever_their_order"),
        (_SHIM, 'key=lambda mount: mount[1].count("/")', 'key=lambda mount: -mount[1].count("/")'),
    ),
    rule(
        "mount-source-missing",
        "A mount whose source does not exist is an error that names it.",
        "api.proto, Mount.host_path",
        (LIFECYCLE, "test_mount_whose_source_is_missing_fails_the_start_and_names_it"),
        (_SHIM, 'raise StartError(f"mount {inside}: {host} does not exist")', "return"),
    ),
    rule(
        "mount-symbolic-link",
        "A source that is a symbolic link is followed on the host.",
        "api.proto, Mount.host_path",
        (LIFECYCLE, "test_mount_of_a_symbolic_link_is_a_mount_of_what_it_leads_to"),
        (_PROCESS, "os.path.realpath(mount.host_path)", "mount.host_path"),
    ),
    rule(
        "mount-image-readonly",
        "An image may be mounted, always readonly.",
        "KEP 4639",
        (LIFECYCLE, "test_image_is_mounted_readonly_and_from_its_sub_path"),
        (
            _SERVICE,
            "Mount(str(path), mount.container_path, readonly=True)",
            "Mount(str(path), mount.container_path, readonly=False)",
        ),
    ),
    rule(
        "mount-image-sub-path",
        "A sub path that the image does not hold is an error.",
        "api.proto, Mount.image_sub_path",
        (LIFECYCLE, "test_image_is_mounted_readonly_and_from_its_sub_path"),
        (_SERVICE, ".parts or not path.is_dir():", ".parts:"),
    ),
    rule(
        "mount-status",
        "The status tells every mount as it was asked for.",
        "api.proto, ContainerStatus.mounts",
        (LIFECYCLE, "test_mounts_are_told_in_the_status"),
        (_TRANSLATE, "readonly=mount.readonly,", "readonly=False,"),
    ),
    rule(
        "container-writable-layer",
        "What a container writes is gone with it, and reaches neither image nor host.",
        "images",
        (CONTAINERS, "test_what_a_container_writes_never_reaches_image_or_host"),
        (
            _SHIM,
            '_overlay([spec["tree"]], f"{scratch}/image", root)',
            '_bind(spec["tree"], root, readonly=False)',
        ),
    ),
    rule(
        "container-closed",
        "A container sees its image, its mounts and system files, and nothing else of the host.",
        "the sandbox",
        (CONTAINERS, "test_pod_sees_its_image_and_the_system_but_not_the_project"),
        (f"{RUNTIME}/__main__.py", '_SYSTEM = ("/usr", ', '_SYSTEM = ("/root", "/home", "/usr", '),
    ),
    rule(
        "container-pid-one",
        "The command is PID 1 of a PID namespace of its own.",
        "pid_namespaces(7)",
        (CONTAINERS, "test_container_is_pid_one_of_its_own_namespace_with_the_pods_hostname"),
        (_SHIM, '_isolate(_NEWPID, "PID")', '_isolate(0, "PID")'),
    ),
    rule(
        "container-hostname",
        "The host name is that of the pod.",
        "api.proto, PodSandboxConfig.hostname",
        (CONTAINERS, "test_container_is_pid_one_of_its_own_namespace_with_the_pods_hostname"),
        (_PROCESS, 'hostname="" if pod.host_network else pod.hostname', 'hostname=""'),
    ),
    rule(
        "exec-result",
        "ExecSync returns what the command wrote, by stream, and its exit code.",
        "api.proto, ExecSyncResponse",
        (CONTAINERS, "test_exec_sync_runs_inside_and_returns_output_and_code"),
        (_SERVICE, "exit_code=done.exit_code", "exit_code=0"),
    ),
    rule(
        "exec-inside",
        "The command sees the container's files and environment.",
        "api.proto, ExecSync",
        (CONTAINERS, "test_exec_sync_runs_inside_and_returns_output_and_code"),
        (_SHIM, "flags = _NEWNS | _NEWPID | _NEWUTS", "flags = _NEWPID | _NEWUTS"),
    ),
    rule(
        "exec-timeout",
        "A command that takes too long is killed; the call ends with DEADLINE_EXCEEDED.",
        "api.proto, ExecSyncRequest.timeout",
        (CONTAINERS, "test_exec_sync_that_takes_too_long_is_killed"),
        (_SERVICE, "abort(grpc.StatusCode.DEADLINE_EXCEEDED", "abort(grpc.StatusCode.INTERNAL"),
    ),
    rule(
        "exec-output-cap",
        "At most 16 MB of each stream come back; the rest is dropped and the command goes on.",
        "api.proto, ExecSyncResponse.stdout",
        (LIFECYCLE, "test_output_of_an_exec_is_capped_and_the_command_goes_on"),
        (
            f"{RUNTIME}/keeper.py",
            "_LARGEST_OUTPUT_BYTES = 16 << 20",
            "_LARGEST_OUTPUT_BYTES = 64 << 20",
        ),
    ),
    rule(
        "exec-unknown-command",
        "A command that cannot be run is an exit code, not an error of the call.",
        "probes, exec",
        (LIFECYCLE, "test_exec_of_an_unknown_command_is_an_exit_code_not_an_error"),
        (_SHIM, "        os._exit(_NOT_STARTED)", "        os._exit(0)"),
    ),
    rule(
        "exec-of-ended",
        "A command in a container that does not run is refused.",
        "api.proto, ExecSync",
        (CONTAINERS, "test_exec_in_an_ended_container_is_refused"),
        (
            _ENGINE,
            "if container.state is not ContainerState.RUNNING:\n            raise",
            "if container.state is ContainerState.CREATED:\n            raise",
        ),
    ),
    rule(
        "exec-ends-with-container",
        "A command ends with its container.",
        "pid_namespaces(7)",
        (LIFECYCLE, "test_exec_ends_with_its_container"),
        (_SHIM, "flags = _NEWNS | _NEWPID | _NEWUTS", "flags = _NEWNS | _NEWUTS"),
    ),
    rule(
        "streaming-refused",
        "Exec, Attach and PortForward answer that they are not supported.",
        "the sandbox",
        (CONTAINERS, "test_streaming_calls_are_honestly_not_supported"),
        (_SERVICE, "raise NotImplementedError(_STREAMING)", 'return cri.ExecResponse(url="x")'),
    ),
    rule(
        "unclaimed-calls",
        "A call that the runtime does not serve answers UNIMPLEMENTED.",
        "the sandbox",
        (LIFECYCLE, "test_runtime_says_what_it_cannot_do"),
        (
            _SERVICE,
            '"ListPodSandboxStats": ',
            '"PodSandboxStats": _nothing("PodSandboxStats"),\n'
            '                "ListPodSandboxStats": ',
        ),
    ),
)
