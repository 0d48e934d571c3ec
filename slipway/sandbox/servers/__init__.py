"""What runs inside the sandbox's containers: model servers, self-contained in their images."""

CHAT_TEMPLATE = "chat_template.jinja"
"""Name of the chat template's file in a model folder."""
