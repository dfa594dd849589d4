import base64
import hashlib
import json
import re

from soractl.monitor.page import page, policy

HOSTILE = "</script><script>alert(1)</script>&\u2028"


def test_names_stand_in_the_page_as_data_alone():
    html = page({"nodes": [HOSTILE]})
    assert HOSTILE not in html
    assert html.count("</script>") == 2
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    assert json.loads(data) == {"nodes": [HOSTILE]}


def test_the_policy_allows_the_page_s_own_program_and_style_by_their_checksums():
    html = page({})
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        text = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        checksum = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{checksum}'" in policy()
    assert policy() in html
    assert "unsafe" not in policy()


def test_the_page_names_no_other_place():
    html = page({})
    assert set(re.findall(r"https?://[^\s\"'<)]+", html)) <= {"https://github.com/leeoniya/uPlot"}
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", html) == ["data:,"]


def test_the_library_comes_with_its_licence():
    from importlib.resources import files

    folder = files("soractl.monitor").joinpath("page_files")
    assert "MIT License" in folder.joinpath("uPlot.LICENSE").read_text()
