"""Add users, one of them in many groups, and service names to a Samba domain.

Run by the system's Python, which has python3-samba. One process and one
transaction: a samba-tool run for each group would take many minutes.

    samba_accounts.py SMB.CONF < {"users": {name: password}, "crowd": name,
                                  "groups": count, "services": [name, ...]}
"""
import json
import sys

import ldb
from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB

# groupType is a signed number: a security group (0x80000000) that is global (2).
GLOBAL_SECURITY = str(0x80000002 - 2 ** 32)


def main(config, wishes):
    parameters = LoadParm()
    parameters.load(config)
    database = SamDB(url=parameters.private_path("sam.ldb"), lp=parameters,
                     session_info=system_session())
    for name, password in wishes["users"].items():
        database.newuser(name, password)
    database.transaction_start()
    add_groups(database, wishes["crowd"], wishes["groups"])
    add_services(database, wishes["services"])
    database.transaction_commit()


def add_groups(database, member, count):
    folder = "CN=Users,%s" % database.domain_dn()
    for number in range(count):
        name = "group%d" % number
        database.add({
            "dn": "CN=%s,%s" % (name, folder), "objectClass": "group",
            "sAMAccountName": name, "groupType": GLOBAL_SECURITY,
            "member": "CN=%s,%s" % (member, folder)})


def add_services(database, names):
    """Let clients ask for tickets to the domain controller by these *names*."""
    controller = database.search(database.domain_dn(),
                                 expression="(sAMAccountName=DC1$)", attrs=[])[0].dn
    change = ldb.Message(controller)
    change["names"] = ldb.MessageElement(names, ldb.FLAG_MOD_ADD,
                                         "servicePrincipalName")
    database.modify(change)


main(sys.argv[1], json.load(sys.stdin))
