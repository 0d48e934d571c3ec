"""Tokens of the accounts that flows run as, as contexts of the sandbox's kubeconfig.

The current context stays the administrator's; releases and the watcher run as they would in a
cluster, by the roles that `slipway install` grants.
"""

from __future__ import annotations

from slipway.adapters.decorators import RetryingKubernetesApi
from slipway.adapters.kubernetes_api import object_path
from slipway.manifests.names import PLATFORM_NAMESPACE
from slipway.sandbox import pki
from slipway.sandbox.home import SandboxHome

# Every `sandbox up` that starts something makes new ones; this is for one that nobody restarts.
_LIFETIME_S = 365 * 24 * 3600


def set_up(home: SandboxHome) -> None:
    """Have the API server make a token for each account and write it into the kubeconfig.

    Raises:
        TransientError: the API server does not answer.
        PermanentError: an account is missing: `slipway install` was not run.
    """
    api = RetryingKubernetesApi(str(home.kubeconfig), context=pki.CONTEXT)
    for account in pki.ACCOUNTS:
        answer = api.call(
            "POST",
            f"{object_path('ServiceAccount', PLATFORM_NAMESPACE, account)}/token",
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": _LIFETIME_S},
            },
        )
        pki.write_private(pki.account_token(home, account), str(answer["status"]["token"]))
    pki.write_private(home.kubeconfig, pki.kubeconfig(home, pki.ADMINISTRATOR))
