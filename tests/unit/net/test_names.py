"""Which name means what, and to whom."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.model.forwarding import Reach, Record
from swarmlet.net.names import (
    AAAA,
    ANY,
    PTR,
    TASK_TTL,
    VIP_TTL,
    A,
    Answer,
    Asker,
    Kind,
    Names,
    pick,
)

from tests.unit.net.records import network, peer, plain, service, tables, task

FRONT = network("front", "10.0.1.0/24")
BACK = network("back", "10.0.2.0/24")
WEB = service("web", "front=10.0.1.100 www")
WEB_1 = task("web.1.aa", "front=10.0.1.11", "back=10.0.2.11")
WEB_2 = task("web.2.ab", "front=10.0.1.12", node=2)
DB = service("db", "back=10.0.2.100")
DB_1 = task("db.1.ba", "back=10.0.2.21", hostname="db-1")
LONE = task("lone.1.zz", "front=10.0.1.99")
SMALL = (FRONT, BACK, WEB, WEB_1, WEB_2, DB, DB_1, LONE)
MX, TXT = 15, 16


def asker(names: Names, address: str) -> Asker:
    found = names.asker(address)
    assert found is not None, address
    return found


def look_up(*records: Record, by: str = "10.0.1.99", name: str, rtype: int = A) -> Answer:
    names = Names(tables(*records))
    return names.answer(asker(names, by), name, rtype)


def addresses(*records: Record, by: str = "10.0.1.99", name: str) -> set[str]:
    answer = look_up(*records, by=by, name=name)
    assert answer.kind in (Kind.ADDRESSES, Kind.EMPTY), answer
    return set(answer.addresses)


# --- services -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["web", "WEB", "wEb", "www", "web.front", "www.FRONT"])
def test_service_names_and_aliases_mean_the_virtual_address(name: str) -> None:
    assert look_up(*SMALL, name=name) == Answer(Kind.ADDRESSES, ("10.0.1.100",), ttl=VIP_TTL)


@pytest.mark.parametrize("name", ["tasks.web", "Tasks.Web", "tasks.www", "tasks.web.front"])
def test_tasks_names_mean_the_serving_tasks(name: str) -> None:
    answer = look_up(*SMALL, name=name)
    assert set(answer.addresses) == {"10.0.1.11", "10.0.1.12"}
    assert answer.ttl == TASK_TTL


def test_dnsrr_service_is_its_serving_tasks() -> None:
    rr = service("web", "front= www")
    answer = look_up(FRONT, BACK, rr, WEB_1, WEB_2, LONE, name="web")
    assert set(answer.addresses) == {"10.0.1.11", "10.0.1.12"}
    assert answer.ttl == TASK_TTL
    assert addresses(FRONT, BACK, rr, WEB_1, WEB_2, LONE, name="www") == {"10.0.1.11", "10.0.1.12"}


def test_dnsrr_leaves_out_tasks_without_weight_and_tasks_name_does_not() -> None:
    canary = task("web.2.ab", "front=10.0.1.12", weight=0)
    records = (FRONT, BACK, service("web", "front="), WEB_1, canary, LONE)
    assert addresses(*records, name="web") == {"10.0.1.11"}
    assert addresses(*records, name="tasks.web") == {"10.0.1.11", "10.0.1.12"}


def test_service_without_serving_task_keeps_its_virtual_address() -> None:
    idle = task("web.1.aa", "front=10.0.1.11", serving=False)
    assert addresses(FRONT, WEB, idle, LONE, name="web") == {"10.0.1.100"}
    assert look_up(FRONT, WEB, idle, LONE, name="tasks.web").kind is Kind.EMPTY


def test_dnsrr_service_without_serving_task_is_known_and_empty() -> None:
    """Forwarded, the name might get an address of somebody else's."""
    assert look_up(FRONT, service("web", "front="), LONE, name="web").kind is Kind.EMPTY


@pytest.mark.parametrize("reach", [Reach.SUSPECT, Reach.LOST])
def test_tasks_of_a_node_that_is_not_ready_are_not_given_out(reach: Reach) -> None:
    assert addresses(*SMALL, peer(2, reach=reach), name="tasks.web") == {"10.0.1.11"}


def test_tasks_of_this_node_are_given_out_whatever_others_think_of_it() -> None:
    assert "10.0.1.11" in addresses(*SMALL, peer(1, reach=Reach.LOST), name="tasks.web")


def test_tasks_of_an_unknown_node_are_not_given_out() -> None:
    far = task("web.3.ac", "front=10.0.1.13", node=77)
    assert "10.0.1.13" not in addresses(*SMALL, far, name="tasks.web")


def test_services_that_share_an_alias_share_the_answer() -> None:
    blue, green = service("blue", "front=10.0.1.50 app"), service("green", "front=10.0.1.51 app")
    assert addresses(FRONT, blue, green, LONE, name="app") == {"10.0.1.50", "10.0.1.51"}


def test_stack_service_has_its_long_and_its_short_name() -> None:
    stacked = service("shop_web", "front=10.0.1.50 web")
    assert addresses(FRONT, stacked, LONE, name="web") == {"10.0.1.50"}
    assert addresses(FRONT, stacked, LONE, name="shop_web") == {"10.0.1.50"}


def test_a_name_may_have_dots() -> None:
    dotted = service("web", "front=10.0.1.50 www.example.com")
    assert addresses(FRONT, dotted, LONE, name="www.example.com") == {"10.0.1.50"}
    assert addresses(FRONT, dotted, LONE, name="www.example.com.front") == {"10.0.1.50"}


# --- networks -----------------------------------------------------------------------------------


def test_names_of_networks_that_the_asker_is_not_in_are_foreign() -> None:
    for name in ("db", "tasks.db", "db.back", "db-1", "db.1.ba"):
        assert look_up(*SMALL, name=name).kind is Kind.FOREIGN, name


def test_asker_in_two_networks_knows_the_names_of_both() -> None:
    assert addresses(*SMALL, by="10.0.1.11", name="db") == {"10.0.2.100"}
    assert addresses(*SMALL, by="10.0.2.11", name="web") == {"10.0.1.100"}


def test_asker_gets_the_address_in_the_first_of_its_networks() -> None:
    both = service("web", "front=10.0.1.100", "back=10.0.2.101")
    swapped = task("sw.1.sa", "back=10.0.2.77", "front=10.0.1.77")
    records = (FRONT, BACK, both, WEB_1, swapped)
    assert addresses(*records, by="10.0.1.11", name="web") == {"10.0.1.100"}
    assert addresses(*records, by="10.0.1.77", name="web") == {"10.0.2.101"}
    assert addresses(*records, by="10.0.1.77", name="web.front") == {"10.0.1.100"}


def test_a_name_that_is_empty_in_the_first_network_is_looked_up_in_the_next() -> None:
    empty, full = service("one", "front= app"), service("two", "back=10.0.2.50 app")
    assert addresses(FRONT, BACK, empty, full, WEB_1, by="10.0.1.11", name="app") == {"10.0.2.50"}


def test_unknown_address_in_a_subnet_asks_as_a_member_of_that_network() -> None:
    assert addresses(*SMALL, by="10.0.1.200", name="web") == {"10.0.1.100"}
    assert look_up(*SMALL, by="10.0.1.200", name="db").kind is Kind.FOREIGN


def test_address_outside_of_all_networks_is_nobody() -> None:
    for address in ("192.0.2.1", "10.0.3.1", "127.0.0.1", "no address", "::1"):
        assert Names(tables(*SMALL)).asker(address) is None, address


def test_ingress_network_has_no_names() -> None:
    ingress = network("ingress", "10.255.0.0/16")
    a = service("a", "ingress=10.255.0.100")
    a_1, b_1 = task("a.1.aa", "ingress=10.255.0.11"), task("b.1.ba", "ingress=10.255.0.12")
    for name in ("a", "tasks.a", "a.1.aa", "a.ingress"):
        assert look_up(ingress, a, a_1, b_1, by="10.255.0.12", name=name).kind is Kind.FOREIGN


def test_records_of_an_unknown_network_are_passed_over() -> None:
    assert addresses(FRONT, WEB, WEB_1, LONE, by="10.0.1.11", name="web") == {"10.0.1.100"}


# --- tasks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["db.1.ba", "DB-1", "db-1", "db-1.back", "db.1.ba.back"])
def test_container_and_host_names_mean_their_task(name: str) -> None:
    assert addresses(*SMALL, by="10.0.2.21", name=name) == {"10.0.2.21"}


def test_members_of_a_group_find_each_other_before_they_serve() -> None:
    members = [
        task(f"db.{n}.b{n}", f"back=10.0.2.2{n}", hostname=f"db-{n}", serving=False)
        for n in (1, 2, 3)
    ]
    for n in (1, 2, 3):
        assert addresses(BACK, DB, *members, by="10.0.2.21", name=f"db-{n}") == {f"10.0.2.2{n}"}


def test_of_tasks_with_one_host_name_those_that_serve_are_preferred() -> None:
    old = task("db.1.ba", "back=10.0.2.21", hostname="primary")
    new = task("db.1.bb", "back=10.0.2.22", hostname="primary", serving=False)
    assert addresses(BACK, DB, old, new, by="10.0.2.22", name="primary") == {"10.0.2.21"}


def test_service_name_wins_over_host_names() -> None:
    liar = task("x.1.xa", "front=10.0.1.66", "back=10.0.2.66", hostname="web")
    assert addresses(*SMALL, liar, name="web") == {"10.0.1.100"}


def test_host_name_of_a_task_on_a_suspect_node_is_still_answered_on_a_lost_one_no_more() -> None:
    """Nobody else can answer for it, so suspicion is no reason to hide it."""
    assert addresses(*SMALL, peer(2, reach=Reach.SUSPECT), name="web.2.ab") == {"10.0.1.12"}
    assert look_up(*SMALL, peer(2, reach=Reach.LOST), name="web.2.ab").kind is Kind.FOREIGN


@pytest.mark.parametrize("name", ["box", "host-1", "redis", "box000000000", "box.front"])
def test_plain_container_answers_to_all_its_names(name: str) -> None:
    """Wherever it runs."""
    for node in (1, 2):
        box = plain("box", "front=10.0.1.70 cache redis", hostname="host-1", node=node)
        assert addresses(FRONT, box, LONE, name=name) == {"10.0.1.70"}


@pytest.mark.parametrize("name", ["box", "host-1", "redis", "box000000000"])
def test_plain_container_has_no_names_while_it_does_not_run(name: str) -> None:
    """But it may ask: its first question comes before managers know that it runs."""
    box = plain("box", "front=10.0.1.70 redis", hostname="host-1", serving=False)
    assert look_up(FRONT, box, LONE, name=name).kind is Kind.FOREIGN
    assert look_up(FRONT, box, LONE, name=reverse("10.0.1.70"), rtype=PTR).kind is Kind.ABSENT
    names = Names(tables(FRONT, BACK, box, WEB, WEB_1))
    assert asker(names, "10.0.1.70").networks == ("id-front",)


def test_plain_containers_are_in_no_service() -> None:
    """Those of one alias share it; a service of that name has it alone."""
    one, two = plain("one", "front=10.0.1.70 db"), plain("two", "front=10.0.1.71 db", node=2)
    assert addresses(FRONT, one, two, LONE, name="db") == {"10.0.1.70", "10.0.1.71"}
    served = service("db", "front=10.0.1.100")
    assert addresses(FRONT, one, two, LONE, served, name="db") == {"10.0.1.100"}
    assert look_up(FRONT, one, LONE, name="tasks.db").kind is Kind.FOREIGN
    assert look_up(FRONT, one, LONE, name=reverse("10.0.1.70"), rtype=PTR).name == "one.front"


# --- types --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtype", [AAAA, MX, TXT, PTR, 64, 65])
def test_known_name_is_empty_for_other_types(rtype: int) -> None:
    assert look_up(*SMALL, name="web", rtype=rtype).kind is Kind.EMPTY


def test_any_is_answered_with_addresses() -> None:
    assert look_up(*SMALL, name="web", rtype=ANY).addresses == ("10.0.1.100",)


@pytest.mark.parametrize("name", ["example.com", "single", "host.docker.internal", "tasks", ""])
def test_unknown_names_are_foreign(name: str) -> None:
    assert look_up(*SMALL, name=name).kind is Kind.FOREIGN


# --- reverse ------------------------------------------------------------------------------------


def reverse(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


@pytest.mark.parametrize(
    ("address", "name"),
    [("10.0.1.100", "web.front"), ("10.0.1.12", "web.2.ab.front"), ("10.0.1.11", "web.1.aa.front")],
)
def test_addresses_have_names_with_their_network(address: str, name: str) -> None:
    answer = look_up(*SMALL, name=reverse(address), rtype=PTR)
    assert (answer.kind, answer.name) == (Kind.POINTER, name)


def test_reverse_name_leads_back_to_its_address() -> None:
    for address in ("10.0.1.100", "10.0.1.12"):
        name = look_up(*SMALL, name=reverse(address), rtype=PTR).name
        assert addresses(*SMALL, name=name) == {address}


@pytest.mark.parametrize("address", ["10.0.1.250", "10.0.1.1", "10.0.2.100", "100.64.0.2"])
def test_other_addresses_of_overlay_networks_have_no_name_for_this_asker(address: str) -> None:
    """The free, the gateway's, another network's, a node's."""
    assert look_up(*SMALL, name=reverse(address), rtype=PTR).kind is Kind.ABSENT


@pytest.mark.parametrize("name", [reverse("192.0.2.1"), "2.1.in-addr.arpa", "x.in-addr.arpa"])
def test_other_reverse_names_are_foreign(name: str) -> None:
    assert look_up(*SMALL, name=name, rtype=PTR).kind is Kind.FOREIGN


# --- who may ask outside ------------------------------------------------------------------------


def test_asker_in_internal_networks_only_has_no_questions_outside() -> None:
    inner = network("inner", "10.0.3.0/24", internal=True)
    ingress = network("ingress", "10.255.0.0/16")
    shut = task("shut.1.sa", "inner=10.0.3.11", "ingress=10.255.0.9")
    half = task("half.1.ha", "inner=10.0.3.12", "front=10.0.1.31")
    records = (inner, FRONT, ingress, shut, half)
    assert look_up(*records, by="10.0.3.11", name="example.com").kind is Kind.CLOSED
    assert look_up(*records, by="10.255.0.9", name="example.com").kind is Kind.CLOSED
    assert look_up(*records, by="10.0.3.77", name="example.com").kind is Kind.CLOSED
    assert look_up(*records, by="10.0.3.12", name="example.com").kind is Kind.FOREIGN
    assert addresses(*records, by="10.0.3.11", name="half.1.ha") == {"10.0.3.12"}


def test_task_brings_its_own_name_servers() -> None:
    names = Names(tables(*SMALL), {"aa": ("192.0.2.53",)})
    assert asker(names, "10.0.2.11").nameservers == ("192.0.2.53",)
    assert asker(names, "10.0.1.99").nameservers == ()


# --- order --------------------------------------------------------------------------------------


@given(st.lists(st.integers(), unique=True), st.integers(0, 12), st.randoms())
def test_pick_gives_different_items_as_many_as_there_are(
    items: list[int], count: int, rng: random.Random
) -> None:
    picked = pick(items, count, rng)
    assert len(picked) == len(set(picked)) == min(count, len(items))
    assert set(picked) <= set(items)


def test_each_item_is_picked_first_about_as_often() -> None:
    rng = random.Random(7)
    firsts = [pick(range(4), 4, rng)[0] for _ in range(4_000)]
    assert all(800 < firsts.count(item) < 1_200 for item in range(4))


# --- any cluster --------------------------------------------------------------------------------

NETS = (network("n0", "10.1.0.0/24"), network("n1", "10.1.1.0/24"), network("n2", "10.1.2.0/24"))


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Record, ...]:
    """Services and tasks in some of three networks, with names that clash."""
    records: list[Record] = [*NETS]
    word = st.sampled_from(["a", "b", "c", "A"])
    for number in range(draw(st.integers(0, 4))):
        nets = draw(st.lists(st.integers(0, 2), unique=True))
        rr = draw(st.booleans())
        records.append(
            service(
                f"s{number}",
                *(f"n{n}={'' if rr else f'10.1.{n}.{200 + number}'} {draw(word)}" for n in nets),
            )
        )
    for number in range(draw(st.integers(1, 8))):
        nets = draw(st.lists(st.integers(0, 2), unique=True, min_size=1))
        records.append(
            task(
                f"s{draw(st.integers(0, 4))}.{number}.t{number}",
                *(f"n{n}=10.1.{n}.{10 + number}" for n in nets),
                node=draw(st.integers(1, 3)),
                hostname=draw(word),
                serving=draw(st.booleans()),
            )
        )
    return tuple(records)


@given(clusters(), st.sampled_from(["a", "b", "s0", "s1", "tasks.s0", "tasks.a", "b.n1", "x"]))
def test_answers_stay_in_the_networks_of_the_asker(records: tuple[Record, ...], name: str) -> None:
    found = tables(*records)
    names = Names(found)
    for one in found.tasks.values():
        mine = {place.network_id[-2:] for place in one.attachments}
        for place in one.attachments:
            answer = names.answer(asker(names, place.address), name, A)
            assert {f"n{a.split('.')[2]}" for a in answer.addresses} <= mine
            assert (answer.kind is Kind.ADDRESSES) == bool(answer.addresses)


@given(clusters())
def test_tasks_names_have_serving_tasks_of_that_service_only(records: tuple[Record, ...]) -> None:
    found = tables(*records)
    names = Names(found)
    for of in found.services.values():
        for place in of.attachments:
            who = Asker((place.network_id,))
            serving = {
                p.address
                for t in found.tasks.values()
                if t.service_id == of.id and t.serving and t.node in (1, 2)
                for p in t.attachments
                if p.network_id == place.network_id
            }
            assert set(names.answer(who, f"tasks.{of.name}", A).addresses) == serving
