"""docs/receivers.md: what receivers read, make of it and refuse, from their data files."""

import json
from collections.abc import Iterable, Iterator

from retl.receivers.data_file import Becomes, Connection, Effect, Receiver, Targets, receiver
from retl.receivers.request_shape import RequestShape
from retl.receivers.settings import known_receivers

_INTRODUCTION = """\
# Receivers

Behind Segment sit systems with names, formats and traps of their own. retl knows some of them, each by one
data file in [`retl/receivers/`](../retl/receivers), from which this page is made.

```console
$ retl check orders --receiver insider,miso      # what they have against the sync and its calls; or `all`
$ retl check orders --receiver all --sample 0    # by the file alone; --sample 1000: so many rows
$ retl explain orders o-5001 --receiver insider  # what becomes of the calls of one row, or of one user
$ retl explain orders o-5001 --receiver insider --requests  # and the requests by which it gets there
$ retl check orders --tracking-plan plan.json    # the same against a Segment tracking plan
```

`check` looks at the sync's file first: events that mean nothing there, traits that are not read, ids that
are missing. Then it looks at the calls that the model's rows make now, each row as if it were new and, where
the sync has an event of its own for it, as if it had changed or were gone. Nothing is sent, and no state is
touched. It ends with 1 where a call is refused or doubtful. Without `--receiver` it looks at files only, and
`explain` asks the receivers that the sync names.

| what comes of it | means |
|---|---|
| refused | the receiver turns down the call or the user |
| doubtful | its documents ask for something else; what it does then is not documented |
| ignored | the call goes through, and this of it is not read |
| note | nothing is wrong: something to know, or to set up there |

## Settings

What a customer may set at a receiver is said in the sync, or for all syncs in retl.yml:

```yaml
receivers:
  insider:
    mode: reject    # what is refused or doubtful becomes a rejected row; warn, the default, counts
    ignore: [I9]    # rules not to look at
    optins: {gdpr_optin: gdpr, email_optin: newsletter}
    attributes: {plan: plan}
  suprsend: {prefix: true, language: language, channels: {slackEmail: slack_email}}
  miso: {}
```

The calls of each run and plan are checked by the rules of these receivers, too. A row that one of them
rejects is kept with a code such as `insider_I6`; the record of a run has how many calls were sent though they
break a rule, as `violations`. A call that tells that a row, or an audience's former user, is gone is made
only once, so it is sent in either mode. A receiver that `integrations` switches off is not asked.

A tracking plan is read as Segment's Public API lists its rules, all pages in one file, or in the form of the
older Config API. Formats such as `date-time` are checked.

## One row for all

A row that suits all of them has: a user id that is a text, on every call; an email; a phone in E.164; a
language of two small letters; opt-ins that are booleans; `first_name` and `last_name`; an `address` with
`city` and a `country` of two capital letters; names of events as Segment's ecommerce spec writes them, or of
letters, digits and spaces; `products` that are a list of objects with a text as `product_id`, a number as
`price` and a whole number as `quantity`, and no null within; `order_id`, `currency`, `total` and `revenue`
beside them. The example's [orders](../syncs/orders.yml) and [users](../syncs/users.yml) are such.

retl sends no page calls, so what receivers make of them is not checked. What lies within `products` is
checked in the calls alone, as a file does not tell of it.

## Another receiver

is one more file in `retl/receivers/`: which calls it reads, its tables of events and fields, the settings
that it leaves to the customer, the requests that reach it, and its rules, each with what it refuses as JSON
Schema. Its cases go to `tests/cases/receivers/`, where each rule needs one in which it finds something and
one in which it does not, and `make docs` adds it to this page.

## Requests

Below each receiver stand the requests that a call brings. What is in `<…>` is filled in: `<call>` is the call
as Segment passes it on, `<user>` or a part of it such as `<user.identifiers>` what arrives of the user, over
what stands there; a member with `<event>` is there once for each event. In addresses and headers it is what
only the customer knows.

[The sandbox](sandbox.md#what-would-reach-receivers) lists the requests of the calls that it took, and
stands in for each receiver: a stand-in takes them over HTTP, and answers as the receiver documents it. A
status that is not documented, such as SuprSend's for a wrong key, is a choice of retl's.
"""


def receivers_markdown() -> str:
    """The page docs/receivers.md."""
    return _INTRODUCTION + "".join(
        f"\n{line}" for name in known_receivers() for line in _receiver(receiver(name))
    )


def _receiver(about: Receiver) -> Iterator[str]:
    yield f"## {about.title}\n"
    yield f"`{about.name}`. Calls reach it by {about.reached_by}.\n"
    yield f"It reads {_listed(about.calls.read)} calls.\n"
    documents = (f"[{title}]({url})" if url else title for title, url in about.documents.items())
    yield f"Documents: {', '.join(documents)}.\n"
    yield f"{_connection(about.connection)}\n"
    if about.settings:
        yield from _table(
            ("setting", "is"),
            (
                (f"`{name}`", f"{setting.says}{_keys(setting.keys)}")
                for name, setting in about.settings.items()
            ),
        )
    if about.identify:
        yield from _table(("of identify", "becomes"), _fields(about.identify.user))
    of_track = {**about.track.user, **about.track.event}
    yield from _table(("of every track call", "becomes"), _fields(of_track))
    yield from _table(("event", "becomes", "with"), _events(about))
    for shape in about.requests:
        yield _request(shape)
    yield _stand_in(about)
    yield from _table(("rule", "says", "else"), _rules(about))


def _connection(way: Connection) -> str:
    """How calls get there, for who sets it up."""
    sentences = [f"Address: {way.url}." if " " in way.url else f"Address: `{way.url}`."]
    sentences += [f"Settings: {_listed(way.settings)}."] if way.settings else []
    sentences += [f"Headers: {_listed(way.headers)}."] if way.headers else []
    sentences += [f"Its answer {answer}: {means}." for answer, means in way.errors.items()]
    return " ".join(sentences)


def _request(shape: RequestShape) -> str:
    """A request as HTTP has it, and who sends it."""
    unread = ", also of those that mean nothing there" if shape.of_unread else ""
    note = f"\n{shape.note}\n" if shape.note else ""
    head = [f"{shape.method} {shape.url}", *(f"{name}: {value}" for name, value in shape.headers.items())]
    body = shape.body if isinstance(shape.body, str) else json.dumps(shape.body, ensure_ascii=False)
    lines = "\n".join([*head, "", body])
    return (
        f"The request of {_listed(shape.of)} calls{unread}, from {shape.by} to {shape.to}:\n\n"
        f"```http\n{lines}\n```\n{note}"
    )


def _stand_in(about: Receiver) -> str:
    """The addresses of the stand-in, and its answers."""
    told = []
    for route in about.stand_in:
        asks = f", which asks for {_listed(route.headers)}" if route.headers else ""
        shapes = (
            route.taken,
            route.faulty,
            route.malformed,
            route.refused if route.headers else None,
            route.too_many,
        )
        statuses = sorted({one.status for one in shapes if one})
        told.append(
            f"`/stand-ins/{about.name}{route.path}`{asks}: it answers {', '.join(map(str, statuses))}"
        )
    return f"Its stand-in in the sandbox: {'; '.join(told)}.\n"


def _events(about: Receiver) -> Iterator[tuple[str, str, str]]:
    known: dict[str, str] = {}
    for event, becomes in about.events.items():
        fields = _event_fields(becomes)
        same = known.setdefault(fields, event) if fields else event
        yield f"`{event}`", f"`{becomes.becomes}`", fields if same == event else f"as `{same}`"
    if about.other_events:
        other = about.other_events
        named = (
            "its name in lower case, with `_` for each space" if other.named == "snake_case" else "its name"
        )
        if other.prefix:
            named += f", after `{other.prefix.text}` with the setting `{other.prefix.when}`"
        yield "any other", named, _event_fields(other)
    else:
        yield "any other", "nothing that is documented", ""


def _event_fields(becomes: Becomes) -> str:
    text = _pairs(becomes.event)
    if becomes.each:
        members = f"one event for each of `{_short(becomes.each)}`, with {_pairs(becomes.item)}"
        text = f"{text}; {members}" if text else members
    return text


def _pairs(targets: Targets) -> str:
    """Properties, and what they become where it has another name."""
    pairs = []
    for source, names in _by_source(targets).items():
        last = [name.rpartition(".")[2] for name in names]
        new = [f"`{name}`" for name in last if f"`{name}`" != source]
        pairs.append(f"{source} → {', '.join(new)}" if new else source)
    return "; ".join(pairs)


def _short(path: str) -> str:
    return path.removeprefix("properties.")


def _fields(targets: Targets) -> Iterator[tuple[str, str]]:
    """Each source with what it becomes."""
    by_path = _by_source(targets, short=False)
    yield from ((source, ", ".join(f"`{name}`" for name in names)) for source, names in by_path.items())


def _by_source(targets: Targets, short: bool = True) -> dict[str, list[str]]:
    """Targets by what they come from; those of one source together."""
    found: dict[str, list[str]] = {}
    for target, source in targets.items():
        paths = (_short(path) if short else path for path in source.from_)
        text = ", else ".join(f"`{path}`" for path in paths)
        text += f" without {_listed(source.without)}" if source.without else ""
        found.setdefault(text, []).append(target)
    return found


def _rules(about: Receiver) -> Iterator[tuple[str, str, str]]:
    for rule, its in about.rules.items():
        effects = [*(check.effect for check in its.checks), about.cited.get(rule)]
        yield rule, its.says, ", ".join(effect for effect in Effect if effect in effects)


def _keys(keys: dict[str, str] | None) -> str:
    return f" Keys: {_listed(keys)}." if keys else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    lines = [f"| {' | '.join(one)} |" for one in rows]
    if lines:
        rule = "|" + "---|" * len(head)
        yield "\n".join([f"| {' | '.join(head)} |", rule, *lines]) + "\n"
