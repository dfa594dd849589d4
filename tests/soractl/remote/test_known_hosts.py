import subprocess

from soractl.remote.known_hosts import HostKey, KnownHosts


def test_names_are_found_by_list_pattern_and_hash(tmp_path):
    file = tmp_path / "known_hosts"
    file.write_text("hidden ssh-rsa AAAA4\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=False, capture_output=True)
    hashed = file.read_text() if file.read_text().startswith("|1|") else ""
    file.write_text(
        "# a comment\n"
        "\n"
        "Head,10.0.0.1 ssh-ed25519 AAAA1 root@head\n"
        "node-*,!node-13 ssh-ed25519 AAAA2\n"
        "@revoked [gate]:2222 ssh-ed25519 AAAA3\n"
        "@cert-authority * ssh-ed25519 AAAA5\n"
        "too short\n"
        "[10.0.0.*]:2222 ssh-ed25519 AAAA6\n" + hashed
    )
    known = KnownHosts([file, tmp_path / "missing"])

    def keys(name):
        return known.keys_of(name)

    assert keys("head") == keys("10.0.0.1") == [HostKey("ssh-ed25519", "AAAA1", f"{file}:3")]
    assert keys("node-12") == [HostKey("ssh-ed25519", "AAAA2", f"{file}:4")]
    assert keys("node-13") == []
    assert keys("[gate]:2222") == [HostKey("ssh-ed25519", "AAAA3", f"{file}:5", revoked=True)]
    assert keys("gate") == []
    assert keys("[10.0.0.7]:2222") == [HostKey("ssh-ed25519", "AAAA6", f"{file}:8")]


def test_an_accepted_key_is_remembered_and_appended_without_joining_lines(tmp_path):
    file = tmp_path / "ssh" / "known_hosts"
    known = KnownHosts([file])
    known.add("n1", "ssh-ed25519", "AAAA1")
    known.add("[n2]:2222", "ssh-ed25519", "AAAA2")
    assert file.read_text() == "n1 ssh-ed25519 AAAA1\n[n2]:2222 ssh-ed25519 AAAA2\n"
    assert known.keys_of("n1") == [HostKey("ssh-ed25519", "AAAA1", str(file))]
    file.write_text("n1 ssh-ed25519 AAAA1")
    known.add("n3", "ssh-ed25519", "AAAA3")
    assert file.read_text() == "n1 ssh-ed25519 AAAA1\nn3 ssh-ed25519 AAAA3\n"
