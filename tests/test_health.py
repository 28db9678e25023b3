import json
from unittest import TestCase

from clockd.config import Metrics
from clockd.health import health_url, ready

DEFAULT = "http://127.0.0.1:9464/readyz"


class UrlTests(TestCase):
    def test_without_an_endpoint_it_is_that_of_the_default(self):
        self.assertEqual((health_url(""), health_url(Metrics().listen)), (DEFAULT, DEFAULT))

    def test_it_follows_the_endpoint(self):
        for endpoint, url in (
            ("tcp:80", "http://127.0.0.1:80/readyz"),
            ("tcp:80:interface=10.0.0.1", "http://10.0.0.1:80/readyz"),
            ("tcp:port=80:interface=0.0.0.0", "http://127.0.0.1:80/readyz"),
            ('"tcp:80"', "http://127.0.0.1:80/readyz"),
            ("unix:/run/x", "unix:/run/x"),
            (r"tcp:80:interface=\:\:1", "http://[::1]:80/readyz"),
            (r"tcp:80:interface=\:\:", "http://127.0.0.1:80/readyz"),
            ("tcp:interface=10.0.0.1", "http://10.0.0.1:9464/readyz"),
        ):
            with self.subTest(endpoint=endpoint):
                self.assertEqual(health_url(endpoint), url)


class ReadyTests(TestCase):
    def test_what_is_no_url_is_told(self):
        for url in (
            "",
            "127.0.0.1:80",
            "https://127.0.0.1/",
            "http:///readyz",
            "http://127.0.0.1:port/",
            "http://[::1/",
        ):
            with self.subTest(url=url):
                answer = ready(url)
                self.assertFalse(answer.ok)
                self.assertTrue(answer.text.startswith(f"clockd: {url}: "), json.dumps(answer.text))
