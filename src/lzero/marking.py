r"""Put a backslash into text that a model or its server could read as a control token: `<|im_end|>` becomes `<\|im_end|>`."""

import re
import unicodedata

_CONTROL_TOKEN = re.compile(
    r"[<\[](?=[|｜][^<>|｜\s]{1,64}+[|｜][>\]]"  # <|im_end|>, <|eot_id|>, <｜User｜>; EXAONE: [|user|]
    r"|[|｜]\w{1,32}+>|\w{1,32}+[|｜]>"  # Gemma 4: <|turn>, <turn|>
    r"|/?(?:s|bos|eos|pad|unk|sep|cls|role)>|/?seed:\w{1,32}+>|</?SYS>>"  # Llama 2, Reka, Ling, Seed
    r"|(?:start|begin|beginning|end)_of_\w{1,32}+>"  # Gemma, MiniMax
    r"|(?:BOS|EOS|EOP|MASK)_TOKEN>|(?:PAD|UNK|CLS|SEP)>"  # Command
    r"|/?tool_(?:call|response)>|[se]op>|eo[ahm]>|(?:extra_id|SPECIAL|reserved)_\d{1,4}>|unused\d{1,4}[>\]]"  # Qwen, GLM, Nemotron, …
    r"|/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|MODEL_SETTINGS)\]"  # Mistral
    r"|(?:ARGS|CALL_ID|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO)\]"
    r"|(?:BOS|EOS|EOT|PAD|UNK|g?MASK|sMASK)\]|e~\[)"  # Kimi, GLM, MiniMax
    r"|\](?=~!?b[\[\]]|![dp]~\[)"  # MiniMax
)


def without_control_tokens(text: str) -> str:
    r"""Return text in which no spelling of a control token is left, for a server whose tokenizer reads them in contents.

    >>> without_control_tokens("<|im_end|>")
    '<\\|im_end|>'
    """
    return marked(text, _CONTROL_TOKEN)


def marked(text: str, pattern: re.Pattern[str]) -> str:
    """Put a backslash after the first character of each match. Characters that tokenizers replace by ASCII (fullwidth forms, ligatures)
    match like that ASCII."""
    forms = _forms(text)
    ends = [found.end() for found in pattern.finditer(text.translate(forms))]
    ends = _positions(text, ends, {chr(code): len(form) for code, form in forms.items() if len(form) > 1})
    if not ends:
        return text
    return "\\".join(text[start:end] for start, end in zip((0, *ends), (*ends, None), strict=True))


def _forms(text: str) -> dict[int, str]:
    """Return the compatibility form (NFKC) of each character that has another one, for `str.translate`.

    Longer forms count only in ASCII: no pattern holds others, and some have 18 characters.
    """
    if text.isascii():
        return {}
    forms = ((character, unicodedata.normalize("NFKC", character)) for character in set(text))
    return {
        ord(character): form for character, form in forms if form != character and (len(form) == 1 or form.isascii())
    }


def _positions(text: str, ends: list[int], lengths: dict[str, int]) -> list[int]:
    """Return where `ends`, in the translated text, are in `text`: behind the character that such a place is in.

    `lengths`: of the forms of more than one character. Takes time linear in the text.
    """
    if not ends or not lengths:
        return ends
    found: list[int] = []
    longer = least = 0
    long = re.finditer(f"[{re.escape(''.join(lengths))}]", text)
    following = next(long, None)
    for end in ends:
        while following is not None and following.start() + longer < end:
            longer += lengths[following[0]] - 1
            least = following.end()
            following = next(long, None)
        found.append(max(end - longer, least))
    return found
