// The field names the program knows, in one list.
//
// Parser, response writer and environ all need to recognise names fast: the parser decides framing by
// them, the environ turns each into a ready-made HTTP_… key. A known name is an index into this list.
#pragma once

#include <cstdint>
#include <string_view>

namespace gcorn {

// X(identifier, "name in lower case")
#define GCORN_KNOWN_FIELDS(X)                                   \
    X(Host, "host")                                             \
    X(Connection, "connection")                                 \
    X(ContentLength, "content-length")                          \
    X(ContentType, "content-type")                              \
    X(TransferEncoding, "transfer-encoding")                    \
    X(Expect, "expect")                                         \
    X(Accept, "accept")                                         \
    X(AcceptCharset, "accept-charset")                          \
    X(AcceptEncoding, "accept-encoding")                        \
    X(AcceptLanguage, "accept-language")                        \
    X(Authorization, "authorization")                           \
    X(CacheControl, "cache-control")                            \
    X(ContentEncoding, "content-encoding")                      \
    X(Cookie, "cookie")                                         \
    X(Date, "date")                                             \
    X(Dnt, "dnt")                                               \
    X(Forwarded, "forwarded")                                   \
    X(From, "from")                                             \
    X(IfMatch, "if-match")                                      \
    X(IfModifiedSince, "if-modified-since")                     \
    X(IfNoneMatch, "if-none-match")                             \
    X(IfRange, "if-range")                                      \
    X(IfUnmodifiedSince, "if-unmodified-since")                 \
    X(KeepAlive, "keep-alive")                                  \
    X(Origin, "origin")                                         \
    X(Pragma, "pragma")                                         \
    X(Priority, "priority")                                     \
    X(ProxyAuthorization, "proxy-authorization")                \
    X(ProxyConnection, "proxy-connection")                      \
    X(Range, "range")                                           \
    X(Referer, "referer")                                       \
    X(SecChUa, "sec-ch-ua")                                     \
    X(SecChUaMobile, "sec-ch-ua-mobile")                        \
    X(SecChUaPlatform, "sec-ch-ua-platform")                    \
    X(SecFetchDest, "sec-fetch-dest")                           \
    X(SecFetchMode, "sec-fetch-mode")                           \
    X(SecFetchSite, "sec-fetch-site")                           \
    X(SecFetchUser, "sec-fetch-user")                           \
    X(SecWebSocketExtensions, "sec-websocket-extensions")       \
    X(SecWebSocketKey, "sec-websocket-key")                     \
    X(SecWebSocketProtocol, "sec-websocket-protocol")           \
    X(SecWebSocketVersion, "sec-websocket-version")             \
    X(Te, "te")                                                 \
    X(Traceparent, "traceparent")                               \
    X(Trailer, "trailer")                                       \
    X(Upgrade, "upgrade")                                       \
    X(UpgradeInsecureRequests, "upgrade-insecure-requests")     \
    X(UserAgent, "user-agent")                                  \
    X(Via, "via")                                               \
    X(XCsrfToken, "x-csrftoken")                                \
    X(XForwardedFor, "x-forwarded-for")                         \
    X(XForwardedHost, "x-forwarded-host")                       \
    X(XForwardedPort, "x-forwarded-port")                       \
    X(XForwardedProto, "x-forwarded-proto")                     \
    X(XForwardedProtocol, "x-forwarded-protocol")               \
    X(XForwardedSsl, "x-forwarded-ssl")                         \
    X(XRealIp, "x-real-ip")                                     \
    X(XRequestId, "x-request-id")                               \
    X(XRequestedWith, "x-requested-with")

enum class FieldId : uint8_t {
    Unknown = 0,
#define GCORN_FIELD_ENUM(identifier, name) identifier,
    GCORN_KNOWN_FIELDS(GCORN_FIELD_ENUM)
#undef GCORN_FIELD_ENUM
        Count
};

/// Lower-case names by FieldId; the one of Unknown is empty.
inline constexpr std::string_view kFieldNames[] = {
    "",
#define GCORN_FIELD_NAME(identifier, name) name,
    GCORN_KNOWN_FIELDS(GCORN_FIELD_NAME)
#undef GCORN_FIELD_NAME
};

/// The id of a field name in any case, or Unknown (http_parse.cpp: a small perfect hash). Pure.
[[nodiscard]] FieldId find_field(std::string_view name);

}  // namespace gcorn
