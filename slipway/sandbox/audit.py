"""What the sandbox's API server writes down: every call of a service account, and every role.

So it can be proved which rights a release uses, and which it has. Nothing else is logged: the
sandbox's own parts call hundreds of times a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from slipway.sandbox import pki
from slipway.sandbox.home import SandboxHome

# A line has about 900 bytes; a release writes one to two thousand.
_FILE_MIB = 50
_OLD_FILES = 3


def audit_log(home: SandboxHome) -> Path:
    """Return the file with a JSON object a line; older ones, `audit-TIME.log`, lie beside it."""
    return home.logs / "audit.log"


def prepare(home: SandboxHome) -> None:
    """Write the policy that the API server reads at its start."""
    pki.write_private(_policy_file(home), yaml.safe_dump(audit_policy(), sort_keys=False))


def audit_policy() -> dict[str, Any]:
    """Return which requests are written down; the first rule that matches decides."""
    roles = ["roles", "rolebindings", "clusterroles", "clusterrolebindings"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        # A line when it is answered; one more for a watch when it begins.
        "omitStages": ["RequestReceived"],
        "omitManagedFields": True,
        "rules": [
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {
                # With what is granted, for that is what calls are compared with.
                "level": "Request",
                "users": [pki.ADMINISTRATOR.name],
                "verbs": ["create", "update", "patch"],
                "resources": [{"group": "rbac.authorization.k8s.io", "resources": roles}],
            },
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    }


def flags(home: SandboxHome) -> tuple[str, ...]:
    """Return the API server's flags."""
    return (
        f"--audit-policy-file={_policy_file(home)}",
        f"--audit-log-path={audit_log(home)}",
        "--audit-log-format=json",
        f"--audit-log-maxsize={_FILE_MIB}",
        f"--audit-log-maxbackup={_OLD_FILES}",
    )


def _policy_file(home: SandboxHome) -> Path:
    return home.config("apiserver") / "audit.yaml"
