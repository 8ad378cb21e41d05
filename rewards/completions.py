"""Turn what TRL passes as `completions` and `prompts` into plain text."""

from rewards._types import Chat


def text_of(completion: Chat | None) -> str:
    """Return the text that is scored: a string itself, or a chat's last assistant message.

    None, an empty chat, a chat without an assistant message and content that is not text
    all give "": they score 0.0, they never raise.

    >>> text_of([{"role": "assistant", "content": "4"}, {"role": "tool", "content": "5"}])
    '4'
    """
    return _last(completion, "assistant")


def prompt_of(prompt: Chat | None) -> str:
    """Return the question: a string itself, or a chat's last user message.

    >>> prompt_of([{"role": "system", "content": "Think."}, {"role": "user", "content": "2+2?"}])
    '2+2?'
    """
    return _last(prompt, "user")


def _last(chat, role):
    if isinstance(chat, str):
        return chat
    messages = [chat] if isinstance(chat, dict) else chat
    if not isinstance(messages, (list, tuple)):
        return ""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role", role) == role:
            return _content(message.get("content"))
    return ""


def _content(content):
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):  # blocks of a multimodal chat: the text parts
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return ""
