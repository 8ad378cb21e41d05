"""From what TRL passes as `completions` to plain text."""


def text_of(completion):
    """The text that is scored: a string itself, or a chat's last assistant message.

    None, an empty chat, a chat without an assistant message and content that is not text
    all give "": they score 0.0, they never raise.

    >>> text_of([{"role": "assistant", "content": "4"}, {"role": "tool", "content": "5"}])
    '4'
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, dict):
        completion = [completion]
    if not isinstance(completion, (list, tuple)):
        return ""
    for message in reversed(completion):
        if isinstance(message, dict) and message.get("role", "assistant") == "assistant":
            return _content(message.get("content"))
    return ""


def _content(content):
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):  # blocks of a multimodal chat: text parts only
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return ""
