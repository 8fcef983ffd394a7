#!/usr/bin/python3
"""The launcher against functions of many Patronis, in this Python. See README.md."""

import importlib.machinery
import importlib.util
import os
import pathlib
import pwd
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
LAUNCHER = HERE.parent.parent / "systemd" / "patroni"
USER = pwd.getpwuid(os.geteuid()).pw_name

# What stands around the functions in Patroni, as little as they need.
CONFIG = '''
import os, socket
from typing import Any, Optional


class pg_perm:
    orig_umask, file_create_mode = 0o022, 0o600
    def set_permissions_from_data_directory(directory): pass


def is_subpath(directory, path): return path.startswith(directory + "/")


class ConfigWriter:
    def __init__(self, path): self.path = path
    def __enter__(self): self.file = open(self.path, "w"); return self
    def __exit__(self, *_): self.file.close()
    def writeline(self, line): self.file.write(line + "\\n")
    def writelines(self, lines): [self.writeline(line) for line in lines]


@FUNCTION@

@PERMISSIONS@

    config_writer = ConfigWriter
    hba_file = ident_file = None
    replication = {"username": "replicator"}

    def __init__(self, home, config, superuser, parameters):
        self._config, self._superuser, self._server_parameters = config, superuser, parameters
        self._pg_hba_conf, self._pg_ident_conf = home + "/pg_hba.conf", home + "/pg_ident.conf"
        self.local_replication_address = {"host": "127.0.0.1", "port": 5432}

    @staticmethod
    def _get_unix_local_address(directories):
        return next((d for d in directories.split(",") if d.startswith("/")), "")

    def resolve_connection_addresses(self):
        self.over = "socket" if self._config.get("use_unix_socket") else "TCP"
'''

# python3-etcd, as much as Patroni needs.
PYTHON_ETCD = '''
class EtcdException(Exception): pass
class EtcdConnectionFailed(EtcdException): pass
class EtcdWatchTimedOut(EtcdConnectionFailed): pass
class EtcdKeyNotFound(EtcdException): pass
'''

ETCD = '''
import time
from typing import Any, Dict, Optional

import etcd

TYPE_CHECKING = False


@FUNCTION@

    machines_cache = ["http://127.0.0.1:2379"]
    _use_proxies, _machines_cache_updated, _machines_cache_ttl = False, time.time(), 300

    def __init__(self, all_have_failed, responds, answer):
        self._update_machines_cache, self.responds, self.answer, self.asked = all_have_failed, responds, answer, 0

    def _load_machines_cache(self):
        """As in Patroni, with the text of _refresh_machines_cache()."""
        self._update_machines_cache = True
        self.asked += 1
        if not self.responds:
            raise etcd.EtcdException("Could not get the list of servers, maybe you provided the wrong host(s) to connect to?")
        self._update_machines_cache = False

    def _prepare_common_parameters(self, etcd_nodes, timeout): return {}
    def _prepare_request(self, kwargs, params, method): return None
    def _handle_server_response(self, response): return response

    def _do_http_request(self, *args, **kwargs):
        if isinstance(self.answer, Exception): raise self.answer
        return self.answer


class DCSError(Exception): pass


def update_leader(client):
    """AbstractEtcd._run_and_handle_exceptions() of all releases."""
    try:
        return client.api_execute("/v3/lease/keepalive", "POST", {"retry": None})
    except etcd.EtcdConnectionFailed as error:
        raise DCSError(error)
    except etcd.EtcdException:
        return False
'''

ETCD3 = '''
import time
from typing import Any, Dict, Optional, Union

TYPE_CHECKING = False


class Etcd3ClientError(Exception):
    def __init__(self, code, error, status): self.code = code


class Etcd3Error(Exception): pass
class Unavailable(Etcd3ClientError): pass
class Unknown(Etcd3ClientError): pass
class LeaseNotFound(Etcd3ClientError): pass
class PermissionDenied(Etcd3ClientError): pass
class GRPCCode: Canceled = 1; Unknown = 2; Unavailable = 14
class Leader: pass


errCodeToClientError = {7: PermissionDenied, 14: Unavailable}
errStringToClientError = {"etcdserver: requested lease not found": LeaseNotFound}


def catch_return_false_exception(function):
    def wrapper(*args, **kwargs): return function(*args, **kwargs)
    return wrapper


@FUNCTIONS@
'''

BOOTSTRAP = '''
class Bootstrap:
    running_custom_bootstrap = True

    def bootstrap(self, config):
        return "begun"
'''

# Prints what came of it. argv: a directory for files, and Python code that has `corrected`, `handler` and so on.
DRIVER = '''
import importlib.machinery, importlib.util, logging, os, sys
sys.dont_write_bytecode = True
logging.basicConfig(stream=sys.stdout)
loader = importlib.machinery.SourceFileLoader("launcher", sys.argv[1])
launcher = importlib.util.module_from_spec(importlib.util.spec_from_loader("launcher", loader))
loader.exec_module(launcher)
launcher.correct()
home = sys.argv[2]


def handler(running, config=None, superuser=None, parameters=None):
    from patroni.postgresql import bootstrap, config as module
    made = module.ConfigHandler(home, config or {}, superuser or {}, parameters or {})
    made._postgresql = type("Postgresql", (), {"bootstrap": bootstrap.Bootstrap()})
    made._postgresql.bootstrap.running_custom_bootstrap = running
    made.resolve_connection_addresses()
    return made


def bootstrap(method):
    from patroni.postgresql import bootstrap
    return bootstrap.Bootstrap().bootstrap({"method": method})


exec(sys.argv[3])
'''


def launcher():
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader("launcher", str(LAUNCHER))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("launcher", loader))
    loader.exec_module(module)
    return module


def texts(name):
    return {path.name: path.read_text() for path in sorted((HERE / "functions").glob(f"{name}-*.py"))}


class Patroni:
    """A package patroni in a directory of its own, and the files that it writes."""

    def __init__(self, replace_pg_hba=None, etcd3=None, permissions=None, etcd=None):
        self.directory = tempfile.TemporaryDirectory()
        self.home = pathlib.Path(self.directory.name)
        hba = replace_pg_hba or texts("replace_pg_hba")["replace_pg_hba-3.3.6.py"]
        etcd3 = etcd3 or [text for name in ("_raise_for_data-3.3.10.py", "_update_leader-3.0.3.py")
                          for text in [(HERE / "functions" / name).read_text()]]
        self.write("patroni/__init__.py", "")
        self.write("patroni/version.py", "__version__ = '9.9.9'\n")
        self.write("patroni/postgresql/__init__.py", "")
        config = CONFIG.replace("@FUNCTION@", hba.rstrip())
        method = (permissions or "").removeprefix("class ConfigHandler:\n").rstrip()
        self.write("patroni/postgresql/config.py", config.replace("@PERMISSIONS@", method))
        self.write("patroni/postgresql/bootstrap.py", BOOTSTRAP)
        self.write("patroni/dcs/__init__.py", "")
        self.write("etcd/__init__.py", PYTHON_ETCD)
        etcd = etcd or (HERE / "functions/api_execute-3.3.8.py").read_text()
        self.write("patroni/dcs/etcd.py", ETCD.replace("@FUNCTION@", etcd.rstrip()))
        self.write("patroni/dcs/etcd3.py", ETCD3.replace("@FUNCTIONS@", "\n\n".join(etcd3)))

    def write(self, path, text):
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def run(self, code, **environment):
        run = subprocess.run(
            [sys.executable, "-c", DRIVER, str(LAUNCHER), str(self.home), code],
            env={"PYTHONPATH": str(self.home), "PATH": os.environ["PATH"], **environment},
            capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        return run.stdout, run.stderr

    def hba(self):
        lines = (self.home / "pg_hba.conf").read_text().splitlines()
        return [line for line in lines if not line.startswith("#")]


class Table(unittest.TestCase):
    def test_the_table_has_the_digests_of_all_texts_and_no_others(self):
        module = launcher()
        for correction in module.CORRECTIONS:
            found = {module.digest(text, correction["function"])
                     for text in texts(correction["function"].rpartition(".")[2]).values()}
            # None is a Patroni without the function.
            table = (correction["faulty"] | correction["good"]) - {None}
            self.assertEqual(found, table, correction["function"])
            self.assertFalse(set(correction["faulty"]) & set(correction["good"]))

    def test_a_comment_or_an_empty_line_makes_no_difference_and_code_does(self):
        digest = launcher().digest
        known = digest("class A:\n  def f(self):\n    return 1\n", "A.f")
        self.assertEqual(known, digest("# x\n\nclass A:\n  # y\n  def f(self):   \n\n    # z\n    return 1\n", "A.f"))
        self.assertNotEqual(known, digest("class A:\n  def f(self):\n    return 2\n", "A.f"))
        self.assertIsNone(digest("def g():\n  pass\n", "A.f"))


class Chosen(unittest.TestCase):
    """PATRONI_PROGRAM: another Patroni, in another Python."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.home = pathlib.Path(self.directory.name)

    def write(self, name, text):
        file = self.home / name
        file.write_text(text)
        file.chmod(0o755)
        return str(file)

    def test_the_python_of_a_program_is_found(self):
        interpreter = launcher().interpreter
        for head in (f"#!{sys.executable}", f"#! {sys.executable} -sP", f"#!/usr/bin/env -S {sys.executable}",
                     f"#!/bin/sh\n'''exec' {sys.executable} \"$0\" \"$@\"\n' '''"):
            self.assertEqual(interpreter(self.write("patroni", head + "\nimport sys\n")), sys.executable, head)
        self.assertTrue(interpreter(self.write("patroni", "#!/usr/bin/env python3\n")).endswith("/python3"))
        binary = self.home / "python3.99"
        binary.write_bytes(b"\x7fELF\xff")
        self.assertEqual(interpreter(str(binary)), str(binary))
        for text in ("#!/bin/sh\nexec python3\n", "#!/usr/bin/perl\n", "#!\n", "#!/usr/bin/env\n", "", "\x7fELF"):
            with self.assertRaises((ValueError, IndexError), msg=text):
                interpreter(self.write("patroni", text))

    def test_the_setting_is_read_as_the_generator_reads_it(self):
        module = launcher()
        module.SETTINGS = str(self.home / "settings")
        self.assertIsNone(module.chosen_program())
        for text, value in (("DCS=etcd3\n", None), ("PATRONI_PROGRAM=/a/b\nTTL=30\n", "/a/b"), ("PATRONI_PROGRAM='/a b'\n", "/a b"),
                            ("PATRONI_PROGRAM=/a\nPATRONI_PROGRAM=\"/b\"\n", "/b"), ("PATRONI_PROGRAM=/a\nPATRONI_PROGRAM=\n", None),
                            ("#PATRONI_PROGRAM=/a\n", None), ("  PATRONI_PROGRAM=/a\n", "/a")):
            self.write("settings", text)
            self.assertEqual(module.chosen_program(), value, text)
        # Settings that postgres cannot read have been no reason to stay down.
        module.SETTINGS = str(self.home)
        self.assertIsNone(module.chosen_program())

    def run_with(self, program):
        patroni = Patroni()
        patroni.write("patroni/version.py", "import os\n__version__ = os.environ.get('PICKED', '1.0')\n")
        text = LAUNCHER.read_text().replace('"/etc/default/patroni"', repr(self.write("settings", program)))
        copy = self.write("launcher", text)
        return subprocess.run([sys.executable, "-B", copy, "--about", "json", "none_such"], capture_output=True, text=True, timeout=60,
                              env={"PYTHONPATH": str(patroni.home), "PATH": os.environ["PATH"]}), patroni

    def test_it_continues_in_the_other_python(self):
        python = self.write("python3-other", f'#!/bin/sh\nPICKED=4.2.0 exec {sys.executable} -B "$@"\n')
        program = self.write("patroni", f"#!/usr/bin/env {python}\n")
        for line, version in (("", "1.0"), (f"PATRONI_PROGRAM={program}\n", "4.2.0")):
            run, patroni = self.run_with(line)
            self.assertEqual(run.stdout, f"patroni {version} {patroni.home}/patroni\njson -\n", run.stderr)
        run, _ = self.run_with("PATRONI_PROGRAM=/none/patroni\n")
        self.assertEqual(run.returncode, 1)
        self.assertIn(" names /none/patroni, which cannot be started: ", run.stderr)


class Hba(unittest.TestCase):
    def test_only_the_own_user_gets_in_while_a_cluster_is_bootstrapped(self):
        for name, text in texts("replace_pg_hba").items():
            patroni = Patroni(text)
            code = ("h = handler(True, {'use_unix_socket': True}, {'username': %r}); h.replace_pg_hba(); "
                    "print(h.over, os.environ['PATRONI_TOOLS_BOOTSTRAP'])" % USER)
            self.assertEqual(patroni.run(code), ("socket peer\n", ""), name)
            self.assertEqual(patroni.hba()[0], f'local all "{USER}" peer', name)
            self.assertTrue(all(line.endswith(" reject") for line in patroni.hba()[1:]), name)
            self.assertFalse((patroni.home / "pg_ident.conf").exists())

    def test_patroni_itself_comes_over_the_socket_meanwhile(self):
        code = ("h = handler(True); h.replace_pg_hba(); print(h.over, h._config); "
                "h._postgresql.bootstrap.running_custom_bootstrap = False; h.replace_pg_hba(); print(h.over); "
                "h.over = 'as it was'; h.replace_pg_hba(); print(h.over)")
        self.assertEqual(Patroni().run(code)[0], "socket {}\nTCP\nas it was\n")
        refused = "\ntry: handler(True, {}, {}, {'unix_socket_directories': ''}).replace_pg_hba()" \
                  "\nexcept ValueError as error: print(error)"
        self.assertIn("needs a Unix socket", Patroni().run(refused)[0])

    def test_a_superuser_of_another_name_is_mapped(self):
        patroni = Patroni()
        code = "h = handler(True, None, {'username': 'ad\"min'}); h.replace_pg_hba(); h.replace_pg_hba()"
        patroni.run(code)
        self.assertEqual(patroni.hba()[0], 'local all "ad""min" peer map=patroni_bootstrap')
        ident = (patroni.home / "pg_ident.conf").read_text()
        self.assertEqual(ident, f'patroni_bootstrap "{USER}" "ad""min"\n')
        # Patroni replaces the whole file by the lines of its own file.
        code = ("\ntry: handler(True, {'pg_ident': LINES}, {'username': 'admin'}).replace_pg_hba(); print('done')"
                "\nexcept ValueError as error: print(error)")
        self.assertIn(f'patroni_bootstrap "{USER}" "admin"', patroni.run(code.replace("LINES", "['a b c']"))[0])
        self.assertEqual(patroni.run(code.replace("LINES", "['patroni_bootstrap b c']"))[0], "done\n")
        # The line of patroni-gen-config, and one of the same map for somebody else.
        self.assertEqual(patroni.run(code.replace("LINES", f"['patroni {USER} admin']"))[0], "done\n")
        self.assertEqual(patroni.hba()[0], 'local all "admin" peer map=patroni')
        other = patroni.run(code.replace("LINES", f"['patroni {USER} other']"))[0]
        self.assertIn(f'patroni_bootstrap "{USER}" "admin"', other)

    def test_afterwards_the_file_is_patronis(self):
        for name, text in texts("replace_pg_hba").items():
            patroni = Patroni(text)
            code = "print(handler(False, {'pg_hba': ['local all all peer']}).replace_pg_hba())"
            self.assertEqual(patroni.run(code)[0], "True\n", name)
            self.assertEqual(patroni.hba(), ["local all all peer"], name)

    def test_an_unknown_patroni_does_not_bootstrap_and_does_the_rest(self):
        changed = texts("replace_pg_hba")["replace_pg_hba-3.3.6.py"].replace("trust", "md5")
        unreadable = Patroni()
        (unreadable.home / "patroni/postgresql/config.py").unlink()
        for patroni in (Patroni(changed), Patroni("class ConfigHandler:\n    pass\n"), unreadable):
            code = ("print(bootstrap('pg_createcluster'), bootstrap('mine'), bootstrap('initdb'), bootstrap(None), "
                    "os.environ.get('PATRONI_TOOLS_BOOTSTRAP'))")
            out, _ = patroni.run(code, PATRONI_TOOLS_BOOTSTRAP="peer")
            self.assertEqual(out.splitlines()[-1], "False False begun begun None")
            for part in ("ERROR:patroni-tools:refused to bootstrap a cluster by mine", "Patroni 9.9.9",
                         "ConfigHandler.replace_pg_hba", "Upgrade patroni-tools", "PATRONI_TOOLS_BOOTSTRAP=trust"):
                self.assertIn(part, out)
        out, err = Patroni(changed).run("handler(True).replace_pg_hba()")
        self.assertIn("bootstraps no cluster by a custom method", err)
        self.assertEqual(len(err.splitlines()), 1)

    def test_the_administrator_may_trust(self):
        changed = texts("replace_pg_hba")["replace_pg_hba-3.3.6.py"].replace("trust", "md5")
        out, err = Patroni(changed).run("print(bootstrap('mine'))", PATRONI_TOOLS_BOOTSTRAP="trust")
        self.assertEqual(out, "begun\n")
        self.assertIn("any user of this host may be PostgreSQL's superuser", err)

    def test_without_a_place_to_refuse_the_hook_has_to(self):
        patroni = Patroni("class ConfigHandler:\n    pass\n")
        (patroni.home / "patroni/postgresql/bootstrap.py").write_text("")
        out, err = patroni.run("print(os.environ.get('PATRONI_TOOLS_BOOTSTRAP'))")
        self.assertEqual(out, "None\n")
        self.assertIn("only pg_createcluster_patroni refuses", err)


class Permissions(unittest.TestCase):
    CODE = """
h = handler(False)
h._postgresql.data_dir = home + "/data"
os.mkdir(h._postgresql.data_dir)
for name in ("pg_hba.conf", "pg_ident.conf.backup", "postgresql.conf", "data/pg_hba.conf"):
    os.close(os.open(home + "/" + name, os.O_CREAT, 0o640))
    h.set_file_permissions(home + "/" + name)
    print(oct(os.stat(home + "/" + name).st_mode)[-3:])
"""

    def test_all_users_cannot_read_who_may_log_in(self):
        for name, text in texts("set_file_permissions").items():
            others = "644" if name.endswith("3.3.7.py") else "640"
            out, err = Patroni(permissions=text).run(self.CODE)
            self.assertEqual((out.split(), err), (["640", "640", others, "600"], ""), name)

    def test_an_unknown_function_is_left_alone_aloud(self):
        text = "class ConfigHandler:\n\n    def set_file_permissions(self, filename):\n        os.chmod(filename, 0o604)\n"
        out, err = Patroni(permissions=text).run(self.CODE)
        self.assertEqual(out.split(), ["604"] * 4)
        self.assertIn("ConfigHandler.set_file_permissions that patroni-tools does not know", err)
        self.assertIn("may become readable by all users; upgrade patroni-tools", err)


class Etcd(unittest.TestCase):
    CODE = """
from patroni.dcs import etcd3
for answer in %s:
    try:
        error = etcd3._raise_for_data(answer)
    except etcd3.Etcd3ClientError as raised:
        error = raised
    print(type(error).__name__)
"""
    CLOSING, LESSOR = "grpc: the client connection is closing", "not a primary lessor"
    # What etcd 3.4.23 and 3.5.16 sent while they were stopped, and when they had lost their leader (issue 3407).
    UNAVAILABLE = [
        {"error": {"grpc_code": 14, "http_code": 503, "message": "transport is closing", "http_status": "Service Unavailable"}},
        {"error": {"code": 14, "message": "error reading from server: EOF"}},
        {"error": "transport is closing", "message": "transport is closing", "code": 14},
        {"code": 14, "message": "error reading from server: EOF"},
        {"error": CLOSING, "message": CLOSING, "code": 1},
        {"error": {"code": 1, "message": CLOSING}},
        {"error": {"grpc_code": 2, "http_code": 500, "message": LESSOR, "http_status": "Internal Server Error"}},
        {"error": {"code": 2, "message": LESSOR}},
    ]
    LEASE, DENIED = "etcdserver: requested lease not found", "etcdserver: permission denied"
    REFUSED = [
        {"error": LEASE, "message": LEASE, "code": 5},
        {"error": {"code": 5, "message": LEASE}},
        {"error": DENIED, "message": DENIED, "code": 7},
        {"error": {"grpc_code": 7, "http_code": 403, "message": DENIED}},
        {"error": {"code": 2, "message": "another error"}},
        "502 Bad Gateway",
    ]
    REFUSALS = ["LeaseNotFound"] * 2 + ["PermissionDenied"] * 2

    def test_a_server_that_is_being_stopped_is_unavailable(self):
        leader = texts("_update_leader")["_update_leader-3.0.3.py"]
        for name, text in texts("_raise_for_data").items():
            out, err = Patroni(etcd3=[text, leader]).run(self.CODE % self.UNAVAILABLE)
            self.assertEqual((out.split(), err), (["Unavailable"] * len(self.UNAVAILABLE), ""), name)

    def test_a_refusal_remains_one(self):
        leader = texts("_update_leader")["_update_leader-3.0.3.py"]
        for name, text in texts("_raise_for_data").items():
            out, err = Patroni(etcd3=[text, leader]).run(self.CODE % self.REFUSED)
            self.assertEqual((out.split()[:4], err), (self.REFUSALS, ""), name)
            self.assertNotIn("Unavailable", out, name)

    def test_no_server_that_responds_is_no_refusal(self):
        """In failsafe mode, the primary is demoted at once after False, and asks the other members after DCSError."""
        code = """
import etcd
from patroni.dcs.etcd import AbstractEtcdClientWithFailover as Client, DCSError, update_leader
for all_have_failed, responds, answer in ((True, False, "ours"), (True, True, "ours"), (False, False, "ours"),
                                          (True, True, etcd.EtcdKeyNotFound()), (True, True, etcd.EtcdConnectionFailed("no")),
                                          (False, False, etcd.EtcdException("refused"))):
    client = Client(all_have_failed, responds, answer)
    client._calculate_timeouts, client.set_base_uri, client._base_uri = lambda *_: (0, 0, 0), lambda uri: None, ""
    retry = type("Retry", (), {"sleeptime": 0, "stoptime": 0})
    api_execute = client.api_execute
    client.api_execute = lambda path, method, params: api_execute(path, method, {"retry": retry})
    try:
        print(update_leader(client), client.asked)
    except DCSError:
        print("unreachable", client.asked)
"""
        for name, text in texts("api_execute").items():
            out, err = Patroni(etcd=text).run(code)
            self.assertEqual(err, "", name)
            self.assertEqual(out.splitlines(), ["unreachable 1", "ours 1", "ours 0", "False 1", "unreachable 2", "False 0"], name)

    def test_an_unknown_way_to_ask_etcd_is_left_alone_aloud(self):
        text = "class AbstractEtcdClientWithFailover:\n\n    def api_execute(self, path, method, params=None):\n        return 1\n"
        out, err = Patroni(etcd=text).run("from patroni.dcs.etcd import *\nprint(update_leader(AbstractEtcdClientWithFailover(0, 0, 0)))")
        self.assertEqual(out, "1\n")
        self.assertIn("Patroni 9.9.9 has a function AbstractEtcdClientWithFailover.api_execute that patroni-tools does not know", err)
        self.assertIn("even in failsafe mode; upgrade patroni-tools", err)

    def test_the_leader_key_is_written_only_if_it_is_ours_or_gone(self):
        raises = texts("_raise_for_data")["_raise_for_data-3.3.10.py"]
        code = "from patroni.dcs import etcd3; print(etcd3.Etcd3._update_leader.__code__.co_filename, " \
               "etcd3.Etcd3._update_leader.__closure__[0].cell_contents.__code__.co_filename)"
        for name, text in texts("_update_leader").items():
            out, err = Patroni(etcd3=[raises, text]).run(code)
            self.assertEqual(err, "", name)
            self.assertEqual(str(LAUNCHER) in out, name == "_update_leader-3.0.2.py", name)

    def test_unknown_functions_are_left_alone_aloud(self):
        unknown = ["def _raise_for_data(data):\n    return Unknown(1, 2, 3)\n",
                   "class Etcd3:\n\n    def _update_leader(self):\n        return True\n"]
        out, err = Patroni(etcd3=unknown).run(self.CODE % self.UNAVAILABLE[:1])
        self.assertEqual(out, "Unknown\n")
        lines = err.splitlines()
        self.assertEqual(len(lines), 2)
        for line, name in zip(lines, ("_raise_for_data", "Etcd3._update_leader")):
            self.assertTrue(line.startswith("<4>patroni-tools: Patroni 9.9.9 has a function " + name + " that"), line)
            self.assertIn("upgrade patroni-tools", line)

    def test_another_dcs_needs_no_etcd3_and_is_guarded_all_the_same(self):
        patroni = Patroni()
        (patroni.home / "patroni/dcs/etcd3.py").write_text("import a_module_that_nobody_has\n")
        code = "handler(True, {'use_unix_socket': True}).replace_pg_hba(); print(bootstrap('mine'))"
        self.assertEqual(patroni.run(code), ("begun\n", ""))
        self.assertNotIn("trust", " ".join(patroni.hba()))


def digests(directory):
    module = launcher()
    for correction in module.CORRECTIONS:
        path = pathlib.Path(directory).joinpath(*correction["module"].split(".")[1:]).with_suffix(".py")
        found = module.digest(path.read_text(), correction["function"])
        state = next((state for state in ("faulty", "good") if found in correction[state]), "unknown")
        print(correction["function"], state, found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["digests"]:
        digests(sys.argv[2])
    else:
        # A package is removed when it is forgotten.
        unittest.main(warnings="ignore")
