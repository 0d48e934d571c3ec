"""Takes a new model version from the registry to live traffic on Kubernetes, and back."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  # for whoever runs a checkout without installing it
    sys.exit("Slipway needs Python 3.11, 3.12 or 3.13; this is {}.{}".format(*sys.version_info))
