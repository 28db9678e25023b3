"""What makes `twist clockd` known: a copy of this file is installed as `twisted/plugins/clockd_twist_plugin.py`."""

from twisted.application.service import ServiceMaker

clockd = ServiceMaker("clockd", "clockd.twist", "Push the time to Perspective Broker clients.", "clockd")
