use serde_json::json;

use super::*;

fn render(text: &str) -> Result<String, String> {
    let mut templates = Templates::default();
    templates.add("main", text)?;
    templates.render(
        "main",
        &json!({"Values": {"yes": true, "no": false, "port": 22, "name": "a \"b\"", "none": "",
            "list": ["x", "y"], "map": {"b": 2, "a": {"c": [1]}}}}),
    )
}

#[test]
fn it_does_what_go_does() {
    for (text, expected) in [
        ("a {{ .Values.port }} b", "a 22 b"),
        ("a\n  {{- .Values.port -}}  \n b", "a22b"),
        ("a{{/* nothing */}}b", "ab"),
        (
            "{{ if .Values.no }}1{{ else if .Values.yes }}2{{ else }}3{{ end }}",
            "2",
        ),
        ("{{ if .Values.none }}1{{ else }}3{{ end }}", "3"),
        (
            "{{ with .Values.map.a }}{{ .c | toJson }}{{ $.Values.port }}{{ end }}",
            "[1]22",
        ),
        ("{{ with .Values.none }}1{{ end }}", ""),
        (
            "{{ range $k, $v := .Values.map }}{{ $k }}={{ toJson $v }};{{ end }}",
            "a={\"c\":[1]};b=2;",
        ),
        ("{{ range .Values.list }}{{ . }}{{ end }}", "xy"),
        ("{{ $x := .Values.port }}{{ add $x 30 }}", "52"),
        ("{{ .Values.name | quote }}", "\"a \\\"b\\\"\""),
        ("{{ .Values.none | default \"d\" }}", "d"),
        (
            "x:{{ toYaml .Values.map | nindent 2 }}",
            "x:\n  \"a\": {\"c\":[1]}\n  \"b\": 2",
        ),
        (
            "{{ if and .Values.yes (not .Values.no) (eq .Values.port 22) }}1{{ end }}",
            "1",
        ),
        ("{{ printf \"%s.svc\" .Values.port }}", "22.svc"),
        (
            "{{ concat (list \"a\") .Values.list | toJson }}",
            "[\"a\",\"x\",\"y\"]",
        ),
        (
            "{{ define \"t\" }}<{{ . }}>{{ end }}{{ include \"t\" .Values.port }}",
            "<22>",
        ),
        ("{{ .Values.missing }}", ""),
        (
            "{{ \"abc\" | sha256sum }}",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
    ] {
        assert_eq!(render(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_it_does_not_know_is_an_error() {
    for text in [
        "{{ .Values.port",
        "{{ if .Values.port }}",
        "{{ end }}",
        "{{ lookup \"v1\" }}",
        "{{ $nobody }}",
        "{{ .Values.map }}",
        "{{ .Values.port.more }}",
        "{{ (add 1 2 }}",
        "{{ \"a }}",
        "{{ range .Values.port }}{{ end }}",
        "{{ with .Values.none }}1{{ else }}2{{ end }}",
        "{{ define \"t\" }}{{ include \"t\" . }}{{ end }}{{ include \"t\" . }}",
    ] {
        assert!(render(text).is_err(), "{text}: {:?}", render(text));
    }
}
