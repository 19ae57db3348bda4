"""GET /docs: serves the OpenAPI page from local files, under a policy that forbids other hosts."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from service.api.http.responses import PlainRoute

FILES = "/static-offline-docs"
SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

router = APIRouter(route_class=PlainRoute, include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> Response:
    return _make_page(request.app.title, request.app.openapi_url)


@cache
def _make_page(title: str, openapi_url: str) -> Response:
    page = get_swagger_ui_html(
        openapi_url=openapi_url,
        title=f"{title} - Swagger UI",
        swagger_js_url=f"{FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{FILES}/swagger-ui.css",
        swagger_favicon_url=f"{FILES}/favicon.png",
    )
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in SCRIPT.findall(page.body)]
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(["'self'", *(f"'sha256-{digest}'" for digest in hashes)]),
        "style-src": "'self' 'unsafe-inline'",  # the page sets its own styles
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    page.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in policy.items())
    page.headers["Referrer-Policy"] = "no-referrer"
    return page
