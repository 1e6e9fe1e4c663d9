"""Templates, read and filled in as Go does it, or refused with their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmlet.model.expansion import Facts, expanded, has_templates
from swarmlet.model.specs import ContainerSpec, Driver, Mount, Platform, VolumeOptions
from swarmlet.model.templates import LOOKUPS, BadTemplate, Scope, Template

FACTS = Facts(
    service_id="sid",
    service_name="web",
    labels={"tier": "front", "a.b": "dotted"},
    node_id="nid",
    hostname="h1",
    platform=Platform(architecture="x86_64", os="linux"),
    task_id="tid",
    task_name="web.3.tid",
    slot=3,
)

SCOPE = Scope(
    FACTS.fields,
    {
        "env": lambda name: {"A": "1"}.get(name, ""),
        "secret": {"key": "s3cret"}.get,
        "config": {"conf": "x = 1"}.get,
    },
)


def filled(text: str) -> str:
    return Template(text, LOOKUPS).fill(SCOPE)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("plain } text }}", "plain } text }}"),
        ("{{.Service.ID}} {{ .Service.Name }}", "sid web"),
        ("{{.Node.ID}}/{{.Node.Hostname}}", "nid/h1"),
        ("{{.Node.Platform.OS}}-{{.Node.Platform.Architecture}}", "linux-x86_64"),
        ("{{.Task.ID}} {{.Task.Name}} {{.Task.Slot}}", "tid web.3.tid 3"),
        ("{{.Service.Labels.tier}}", "front"),
        ('{{index .Service.Labels "a.b"}}', "dotted"),
        ('<{{index .Service.Labels "none"}}>', "<>"),
        ("{{.Service.Labels}}", "map[a.b:dotted tier:front]"),
        ('{{env "A"}}{{env "NONE"}}', "1"),
        ('{{secret "key"}} {{config "conf"}}', "s3cret x = 1"),
        ('{{"a\\n\\"b\\" }}"}}', 'a\n"b" }}'),
        ("{{`raw \\n`}}", "raw \\n"),
        ("{{42}} {{-7}} {{true}}", "42 -7 true"),
        ('{{"{{"}}.Name}}', "{{.Name}}"),
        ('{{join "-" .Service.Name .Task.Slot}}', "web-3"),
        ('{{printf "%s:%d %v%%" "a" 5 true}}', "a:5 true%"),
        ("{{print 1 2 `a` 3}}", "1 2a3"),
        ('{{"b" | print "a"}}', "ab"),
        ('{{.Service.Name | join "/" "x" | printf "<%s>"}}', "<x/web>"),
        ('{{(printf "%s" (env "A"))}}', "1"),
        ('{{secret (printf "%s" "key")}}', "s3cret"),
        ('{{if eq .Node.Hostname "h1"}}yes{{else}}no{{end}}', "yes"),
        ('{{if ne .Node.Hostname "h1"}}yes{{else}}no{{end}}', "no"),
        ('{{if env "NONE"}}a{{else if not (env "A")}}b{{else}}c{{end}}', "c"),
        ('{{if env "NONE"}}a{{else if env "A"}}b{{end}}', "b"),
        ("{{if true}}{{if false}}a{{end}}b{{end}}c", "bc"),
        ('{{if and "a" ""}}x{{end}}{{or "" "y"}}', "y"),
        ('{{eq 1 2 1}} {{eq "1" 1}}', "true false"),
        ("a \n {{- 1 -}} \t\n b", "a1b"),
        ("a{{- /* a\ncomment */ -}} b{{/* another */}}c", "abc"),
        ("a {{-1}}", "a -1"),
    ],
)
def test_filled_in_as_by_go(text: str, result: str) -> None:
    assert filled(text) == result


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("a\n  {{", "line 2, column 5", "its }} is missing"),
        ("{{ .Service.Name", "line 1, column 3", "its }} is missing"),
        ("{{ range .Service.Labels }}", "line 1, column 4", "there is no such function here"),
        ("{{ $x }}", "line 1, column 4", "this is not supported in templates"),
        ("{{ .Secret }}", "line 1, column 4", "there is no such field; there are .Node.Hostname,"),
        ("{{ .Service }}", "line 1, column 4", "there is no such field"),
        ("{{ .Service.Labels.a.b }}", "line 1, column 4", "there is no such field"),
        ("{{ lower `a` }}", "line 1, column 4", "there are and, config, env, eq, index, join, ne,"),
        ("{{ end }}", "line 1, column 4", "there is no if that this belongs to"),
        ("{{ else }}", "line 1, column 4", "there is no if that this belongs to"),
        ("{{ if true }}", "line 1, column 4", "this if has no end"),
        ("{{ if true }}{{ else }}{{ else }}{{ end }}", "line 1, column 4", "this if has no end"),
        ("{{ if true }}{{ end 1 }}", "line 1, column 21", "nothing can follow here"),
        ("{{ if }}{{ end }}", "line 1, column 4", "a value is needed"),
        ("{{ `a` | }}", "line 1, column 4", "nothing follows the last |"),
        ("{{ | print }}", "line 1, column 4", "a value is needed"),
        ("{{ `a` | `b` }}", "line 1, column 10", "only functions take what is piped"),
        ("{{ `a` `b` }}", "line 1, column 8", "only functions take arguments"),
        ("{{ (print }}", "line 1, column 4", "this parenthesis is not closed"),
        ("{{ print ) }}", "line 1, column 10", "this parenthesis was not opened"),
        ("{{ print env }}", "line 1, column 10", "needs parentheses"),
        ("{{ env }}", "line 1, column 4", "env takes one argument"),
        (r'{{ "\q" }}', "line 1, column 4", "of escapes, only"),
        ("{{" + "(" * 30 + "1" + ")" * 30 + "}}", "line 1, column 23", "too deep"),
        ("{{if true}}" * 21 + "{{end}}" * 21, "line 1, column 223", "more than 20 levels"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, place: str, reason: str) -> None:
    with pytest.raises(BadTemplate) as refusal:
        Template(text, LOOKUPS)
    assert str(refusal.value).startswith(f"template, {place}: ")
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ .Service.Labels.none }}", "the service has no such label"),
        ('{{ secret "none" }}', "the task has no secret with this target"),
        ("{{ config 1 }}", "the task has no config with this target"),
        ('{{ index "a" "b" }}', "index cannot take these arguments"),
        ('{{ printf "%d" "a" }}', "printf cannot take these arguments"),
        ('{{ printf "%s" }}', "printf cannot take these arguments"),
        ('{{ printf "" 1 }}', "printf cannot take these arguments"),
        ('{{ printf "%x" 1 }}', "printf cannot take these arguments"),
        ("{{ not }}", "not cannot take these arguments"),
        ("{{ join `,` 1 }}", "join cannot take these arguments"),
    ],
)
def test_what_cannot_be_filled_in_is_said(text: str, reason: str) -> None:
    template = Template(f"\n{text}", LOOKUPS)
    with pytest.raises(BadTemplate) as refusal:
        template.fill(SCOPE)
    assert str(refusal.value) == f"template, line 2, column 4: {reason}"


def test_specs_have_no_lookups() -> None:
    with pytest.raises(BadTemplate, match="there is no such function here; there are and, eq,"):
        Template('{{ secret "key" }}')


@pytest.mark.parametrize(
    "text", ["{{print " + "1 " * 80_000 + "}}", '{{"a"' + " | print" * 3_000 + "}}"]
)
def test_a_long_action_is_refused_at_once(text: str) -> None:
    with pytest.raises(BadTemplate, match="words in one action"):
        Template(text, LOOKUPS)


def test_the_longest_pipeline_is_filled_in() -> None:
    assert filled('{{"a"' + " | print" * 99 + "}}") == "a"


def test_no_refusal_quotes_the_text() -> None:
    for text in ('{{ hidden "x" }}', "{{ .Hidden }}", "hidden {{", '{{ printf "hidden%d" }}'):
        with pytest.raises(BadTemplate) as refusal:
            filled(text)
        assert "idden" not in str(refusal.value)


PIECES = st.sampled_from(
    [
        *("{{", "}}", "{{-", "-}}", " ", "\n", "(", ")", "|", '"a"', "`b`", "/*", "*/", "1", "-"),
        *("if", "else", "end", "print", "env", "secret", "eq", "true", ".Task.Slot", ".", "$", "x"),
        *(".Service.Labels", ".Service.Labels.tier", "index", '"', "\\"),
    ]
)


@given(st.lists(PIECES, max_size=25).map("".join))
def test_any_text_is_filled_in_or_refused(text: str) -> None:
    try:
        filled(text)
    except BadTemplate as exc:
        assert str(exc).startswith("template, line ")  # noqa: PT017 - that it may be one is the claim


@given(st.text().filter(lambda text: "{{" not in text))
def test_text_without_actions_stays_as_it_is(text: str) -> None:
    assert filled(text) == text


# --- specs --------------------------------------------------------------------------------------


def test_places_of_a_spec_are_filled_in() -> None:
    container = ContainerSpec(
        hostname="{{.Service.Name}}-{{.Task.Slot}}",
        env=("{{A}}={{.Node.Hostname}}", "BARE", "B=x={{.Task.ID}}", "C="),
        args=("{{.Task.ID}}",),
        mounts=(
            Mount(type="bind", source="/d/{{.Task.Slot}}", target="/{{.Service.Name}}"),
            Mount(
                type="volume",
                source="v-{{.Task.Slot}}",
                target="/v",
                volume_options=VolumeOptions(
                    labels={"l": "{{.Node.ID}}"},
                    driver_config=Driver(name="{{x}}", options={"o": "{{.Task.Slot}}"}),
                ),
            ),
        ),
    )
    assert has_templates(container)
    assert expanded(container, FACTS) == ContainerSpec(
        hostname="web-3",
        env=("{{A}}=h1", "BARE", "B=x=tid", "C="),
        args=("{{.Task.ID}}",),
        mounts=(
            Mount(type="bind", source="/d/3", target="/web"),
            Mount(
                type="volume",
                source="v-3",
                target="/v",
                volume_options=VolumeOptions(
                    labels={"l": "nid"}, driver_config=Driver(name="{{x}}", options={"o": "3"})
                ),
            ),
        ),
    )
    plain = ContainerSpec(hostname="h", env=("A=b",))
    assert not has_templates(plain)
    assert expanded(plain, FACTS) == plain
