"""The views of runs, users and audiences."""

from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.page import audience, person, rehearsed_run
from retl.sandbox.page.filter import place_of
from retl.sandbox.page.frame import Frame, query_of, text_of
from retl.sandbox.routes import Asked, PageAnswer


def runs_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """The runs that sent calls, side by side."""
    return frame.around(sandbox, "runs.html", "runs", runs=rehearsed_run.runs(sandbox.store))


def users_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """The users, the one with the newest call first."""
    query = query_of(asked)
    search, before = text_of(query, "q"), place_of(query, "before")
    found = person.users(sandbox.store, search, before, person.USERS + 1)
    listed = found[: person.USERS]
    more = listed[-1].newest if len(found) > len(listed) else None
    return frame.around(sandbox, "users.html", "users", users=listed, search=search, before=before, more=more)


def user_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """One user: figures, traits, audiences, and the timeline."""
    query = query_of(asked)
    user, before = text_of(query, "id"), place_of(query, "before")
    found = person.person(sandbox.store, user)
    entries = person.timeline(sandbox.store, user, before, person.TIMELINE + 1) if found else []
    traits = person.traits(sandbox.store, user) if found else ()
    audiences = audience.audiences_of(sandbox.store, user) if found else []
    listed = entries[: person.TIMELINE]
    return frame.around(
        sandbox,
        "user.html",
        "users",
        status=200 if found else 404,
        user=user,
        person=found,
        entries=listed,
        traits=traits,
        audiences=audiences,
        before=before,
        older=listed[-1].call.seq if len(entries) > len(listed) else None,
    )


def audiences_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """All audiences, with how many are in and how many left."""
    found = audience.audiences(sandbox.store)
    return frame.around(sandbox, "audiences.html", "audiences", audiences=found)


def audience_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """One audience: who is in, or who left."""
    query = query_of(asked)
    name, search = text_of(query, "name"), text_of(query, "q")
    side, before = text_of(query, "side"), place_of(query, "before")
    styles = [one for one in audience.Style if one == text_of(query, "style")]
    found = audience.audience(sandbox.store, styles[0], name) if styles else None
    members = (
        audience.members(sandbox.store, styles[0], name, side != "left", before, search) if found else []
    )
    return frame.around(
        sandbox,
        "audience.html",
        "audiences",
        status=200 if found else 404,
        name=name,
        audience=found,
        side="left" if side == "left" else "in",
        search=search,
        before=before,
        members=members,
        more=members[-1].seq if len(members) == audience.MEMBERS else None,
    )
