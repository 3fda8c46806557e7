"""The words of the world: names, kinds of things, relations between them, and the tokens of a small model for it."""

from typing import Final, Literal

Kind = Literal["person", "place", "work"]

_NAMES = (
    "Bada Baso Basu Bava Bidi Bili Bomu Bono Bopu Bufi Buri Buro Buta Buzi Buzu Dafu "
    "Daku Dala Dapa Dari Diba Dila Diru Dobi Doli Doza Duba Duta Fala Fanu Favo Fazo "
    "Fimu Fisi Fivo Foga Folo Fudu Fuga Fupu Fura Fusa Fuzo Gaki Gapa Garu Gazo Gidi "
    "Gika Gilu Gipo Gopi Goru Gosu Guba Gudu Guko Gupu Kaba Kadu Kafi Kato Kazo Kizu "
    "Kopi Kopo Kova Kubo Kuda Kufa Kupi Kuru Labo Lalu Lato Libo Liku Liri Lofu Logi "
    "Lopo Lugo Luki Mafa Mano Miba Migi Miku Mobi Mopo Moro Mufi Mufo Muna Muzu Nadu "
    "Namo Naza Nido Nodi Nogo Nosu Nubi Nubo Nupo Nusa Nuta Nutu Nuzi Pago Pava Piba "
    "Pibo Pibu Piga Pimi Pito Pizu Pofo Poti Puli Pulu Rano Rasu Ribo Riki Rila Rinu "
    "Rito Rivo Ropi Ropu Rubo Safa Salo Saro Savo Sobu Sogo Soro Suko Suku Supu Suro "
    "Suvo Suzo Tabo Tavu Tido Tifi Tigu Tipu Tiru Tiso Titu Tonu Topa Tulu Tuva Vabi "
    "Vali Vami Vani Vapa Vapu Vaza Vima Vipo Viru Viza Vizu Voku Volo Vomu Vonu Vori "
    "Vozo Zaba Zana Zavi Zibo Zola Zomi Zopo Zori Zoro Zudi Zudo Zuki Zusa Zuta Zuvi"
)
NAMES: Final = tuple(_NAMES.split())
"""All names. A name does not reveal its kind: Liri is a painter in one task and a town in the next."""

RELATIONS: Final[dict[Kind, dict[str, Kind]]] = {
    "person": {"rival": "person", "mentor": "person", "home": "place", "debut": "work"},
    "place": {"founder": "person", "ruler": "person", "twin": "place", "anthem": "work"},
    "work": {"author": "person", "hero": "person", "setting": "place", "sequel": "work"},
}
"""Kind → the relations in its entries, each with the kind of its value. No relation belongs to two kinds."""

QUESTION_OPENINGS: Final[dict[Kind, str]] = {
    "person": ", who does the path ",
    "place": ", which place does the path ",
    "work": ", which work does the path ",
}
"""Text of a question between its start and its relations, by the kind of the answer: "Starting from Liri, who does the path founder rival
lead to?" The relations follow each other in the order to look them up."""

RECALL_QUESTION: Final = "\nRecall the facts by alphabet. Which is the last?"
"""Question that follows an entry in the tasks of the split "recall"."""


def kind_with(relation: str) -> Kind:
    """Return the kind of thing that has `relation`. Raises KeyError for an unknown relation."""
    for kind, relations in RELATIONS.items():
        if relation in relations:
            return kind
    raise KeyError(relation)


def vocabulary() -> tuple[str, ...]:
    """Return the pieces of a tokenizer for this world, for `models.build_tokenizer`.

    A name is always one piece (spaces belong to its neighbours). A relation and the space after it are one piece, too. So in an entry a key
    is one token right before its value, and it is the same token in a question.
    """
    relations = [f"{relation} " for kind in RELATIONS for relation in RELATIONS[kind]]
    return (*NAMES, *relations, *QUESTION_OPENINGS.values(), *_ENTRY, *_REPLY, *_TURN, *_PROBLEMS)


_ENTRY: Final = (
    *("Starting from ", "lead to?", ": a person; ", ": a place; ", ": a work; ", "; ", "\n"),
    *(RECALL_QUESTION, "?"),
)
_REPLY: Final = (
    *("<think>", "of ", "to go", "I need the ", ". I need the ", ". That is the answer"),
    *("</think>\n<code>\n", ".</think>\n<code>\n", 'print(search("', '"))\n</code>', ")\n</code>"),
    *('submit_final_answer("', '")\n</code>', "\n</code>"),
)
_TURN: Final = (
    *("user\n", "assistant\n", "<output>\n", "\n</output>\n[", "?\n[", "lead to?\n[", "\n["),
    *"0123456789",
    *(" steps and ", " step and ", " tokens left]", "no results", "(no output)"),
)
_PROBLEMS: Final = (
    *("nothing ran: there is no <code> block", "nothing ran: <code> is not closed by ", "</code>"),
    "nothing ran: the <code> block is empty",
    *('  File "<cell ', '>", line 1\n    ', "        ", "^\nSyntaxError: "),
    *("unterminated string literal (detected at line 1)", "incomplete input", " (<cell ", ">, line 1)"),
)
"""Messages about cells that do not run. An agent that cannot read its errors cannot recover from them."""
